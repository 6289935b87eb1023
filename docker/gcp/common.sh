# shellcheck shell=bash
# shellcheck disable=SC2034  # names are for the scripts that source this file
# Sourced by the other scripts of this folder: options, names, and the only two ways to gcloud: `look` reads, `change`
# acts. Nothing is changed without --apply; without it `change` shows the command.

# The shell of macOS is too old for arrays that may be empty.
if [ "${BASH_VERSINFO[0]}" -lt 4 ] || { [ "${BASH_VERSINFO[0]}" = 4 ] && [ "${BASH_VERSINFO[1]}" -lt 4 ]; }; then
    printf 'error: bash %s is too old, 4.4 is needed (macOS: brew install bash)\n' "$BASH_VERSION" >&2
    exit 1
fi
shopt -s inherit_errexit # a reading that fails in $(…) ends the script, too

ENVIRONMENT="" PROJECT="" REGION="us-east1" NAME="" APPLY=false
N_CHANGES=0

say() { printf '%s\n' "$*"; }

fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# The options that all scripts share; returns 1 for another one. N_TAKEN is how many words were taken.
take_option() {
    N_TAKEN=2
    case $1 in
        --env) ENVIRONMENT=${2-} ;;
        --project) PROJECT=${2-} ;;
        --region) REGION=${2-} ;;
        --name) NAME=${2-} ;;
        --apply) APPLY=true N_TAKEN=1 ;;
        *) return 1 ;;
    esac
    [ "$N_TAKEN" = 1 ] || [ $# -ge 2 ] || fail "$1 needs a value"
}

# Checks what was given and names everything that is made. Ids are checked before they reach a command or a file.
settle_names() {
    [[ $ENVIRONMENT =~ ^(dev|prod)$ ]] || fail "--env must be dev or prod, not '${ENVIRONMENT}'"
    [[ $PROJECT =~ ^[a-z][a-z0-9-]{4,28}[a-z0-9]$ ]] || fail "--project must be a project id such as my-lab-prod, not '${PROJECT}'"
    [[ $REGION =~ ^[a-z]+-[a-z]+[0-9]+$ ]] || fail "--region must be a region such as us-east1, not '${REGION}'"
    : "${NAME:=haystack-$ENVIRONMENT}"
    # The longest account is NAME-orchestrator, and an account id has 30 characters at most.
    [[ $NAME =~ ^[a-z][a-z0-9-]{1,16}[a-z0-9]$ ]] || fail "--name must be 3 to 18 lower-case letters, digits and hyphens, not '${NAME}'"
    SERVICE_ACCOUNT="$NAME-service@$PROJECT.iam.gserviceaccount.com"
    ORCHESTRATOR_ACCOUNT="$NAME-orchestrator@$PROJECT.iam.gserviceaccount.com"
    INFERENCE_ACCOUNT="$NAME-inference@$PROJECT.iam.gserviceaccount.com"
    DEPLOY_ACCOUNT="$NAME-deploy@$PROJECT.iam.gserviceaccount.com"
    WAKE_ACCOUNT="$NAME-wake@$PROJECT.iam.gserviceaccount.com"
    TOPIC="$NAME-jobs"
    REPOSITORY="$REGION-docker.pkg.dev/$PROJECT/haystack"
    CONNECTOR="$NAME-vpc"
    export CLOUDSDK_CORE_PROJECT=$PROJECT CLOUDSDK_CORE_DISABLE_PROMPTS=1
    command -v gcloud >/dev/null || fail "gcloud is not installed; see https://cloud.google.com/sdk/docs/install"
}

announce() {
    if $APPLY; then
        say "$1: project $PROJECT, region $REGION, name $NAME. Each change is made as it is shown."
    else
        say "$1: project $PROJECT, region $REGION, name $NAME. This is the plan; nothing is changed without --apply."
    fi
}

finish() {
    if [ "$N_CHANGES" = 0 ]; then
        say "Nothing to do: everything is as it should be."
    elif $APPLY; then
        say "$N_CHANGES changes made."
    else
        say "$N_CHANGES changes planned. Run again with --apply to make them."
    fi
}

# Prints what a reading command answers; nothing where the thing does not exist, or cannot exist because its API is off.
look() {
    local answer errors status=0
    errors=$(mktemp)
    answer=$(gcloud "$@" 2>"$errors") || status=$?
    if [ "$status" != 0 ] && ! grep -Eiq 'NOT_FOUND|not found|cannot find|does not exist|has not been used|is disabled|SERVICE_DISABLED' "$errors"; then
        cat "$errors" >&2
        rm -f "$errors"
        fail "'gcloud $*' failed, so what exists is not known. Nothing was changed by it; mend what gcloud says and run again"
    fi
    rm -f "$errors"
    [ "$status" = 0 ] && printf '%s\n' "$answer"
    return 0
}

# Whether a thing exists, by what a reading command prints; where that cannot be known, the script ends here.
exists() {
    local found
    found=$(look "$@") || exit 1
    [ -n "$found" ]
}

# change WHAT COMMAND…: makes one change, or shows it. A new service account is not known everywhere at once, so what
# fails for want of it is tried again: HAYSTACK_SETUP_TRIES times (5), HAYSTACK_SETUP_PAUSE_S seconds apart (5).
change() {
    local what=$1 errors tries=0
    shift
    N_CHANGES=$((N_CHANGES + 1))
    say "  + $what"
    say "      $(printf '%q ' gcloud "$@")"
    $APPLY || return 0
    errors=$(mktemp)
    until gcloud "$@" >/dev/null 2>"$errors"; do
        tries=$((tries + 1))
        if [ $tries -gt "${HAYSTACK_SETUP_TRIES:-5}" ] || ! grep -Eiq 'service account .*does not exist|ABORTED|concurrent policy changes' "$errors"; then
            cat "$errors" >&2
            rm -f "$errors"
            fail "$what: gcloud refused (its words are above). What was made before is kept: mend the cause and run the same command again"
        fi
        sleep "${HAYSTACK_SETUP_PAUSE_S:-5}"
    done
    rm -f "$errors"
}

# Needed by what names the project by its number: the proxy's and Pub/Sub's own names, and addresses of Cloud Run.
project_number() {
    local number
    number=$(look projects describe "$PROJECT" --format='value(projectNumber)')
    [ -n "$number" ] || fail "project $PROJECT is not found, or you may not see it"
    printf '%s' "$number"
}

# Not a pipe into grep: it ends at the first match, and with pipefail the end of its pipe would read as "not there".
has_line() { [[ $'\n'$2$'\n' == *$'\n'"$1"$'\n'* ]]; }

# The bindings of a policy, one "role,member" a line.
bindings() { look "$@" --flatten='bindings[].members' --format='csv[no-heading](bindings.role,bindings.members)'; }

# grant WHERE POLICY MEMBER ROLE COMMAND…: adds a binding unless POLICY, as printed by `bindings`, has it.
grant() {
    local where=$1 policy=$2 member=$3 role=$4
    shift 4
    has_line "$role,$member" "$policy" || change "$where: $role for ${member#*:}" "$@" --member="$member" --role="$role"
}
