#!/usr/bin/env bash
# Deploys the web service to Cloud Run, behind the identity-aware proxy, from images that build_and_push.sh pushed.
#
#   deploy.sh --env dev|prod --project ID --bucket NAME [--region us-east1] [--name haystack-ENV] [--tag TAG]
#             [--member user:…|group:…|domain:…]… [--admin E-MAIL]… [--vpc] [--wake] [--secret NAME] [--apply]
#
# Shows the plan and the manifest; --apply deploys. Images are named by digest, so what was looked at is what runs. If
# the new revision does not answer, the traffic goes back to the one before and the script fails. HAYSTACK_SMOKE_URL is
# where to look for the answer, if not at Cloud Run's own address (behind a load balancer).
set -euo pipefail
cd "$(dirname "$0")"
# shellcheck source=docker/gcp/common.sh
. ./common.sh

bucket="" tag="" members=() admins=() vpc=false wake=false secret=""
while [ $# -gt 0 ]; do
    if take_option "$@"; then
        shift "$N_TAKEN"
        continue
    fi
    case $1 in
        --bucket) bucket=${2-} && shift ;;
        --tag) tag=${2-} && shift ;;
        --member) members+=("${2-}") && shift ;;
        --admin) admins+=("${2-}") && shift ;;
        --vpc) vpc=true ;;
        --wake) wake=true ;;
        --secret) secret=${2-} && shift ;;
        -h | --help) sed -n '2,10s/^# \{0,1\}//p' deploy.sh && exit 0 ;;
        *) fail "unknown option $1; --help lists them" ;;
    esac
    shift
done
settle_names
[[ $bucket =~ ^[a-z0-9][a-z0-9_-]{1,61}[a-z0-9]$ ]] || fail "--bucket must be the bucket that setup.sh made, not '$bucket'"
: "${tag:=$(git rev-parse --short=12 HEAD)}"
[[ $tag =~ ^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$ ]] || fail "--tag must be an image tag, not '$tag'"
[[ -z $secret || $secret =~ ^[A-Za-z0-9_-]{1,255}$ ]] || fail "--secret must be the name of a secret, not '$secret'"
for member in "${members[@]}"; do
    [[ $member =~ ^(user|group|domain|serviceAccount):[A-Za-z0-9._%+@-]+$ ]] || fail "--member must be user:, group:, domain: or serviceAccount: and an address, not '$member'"
done
for admin in "${admins[@]}"; do
    [[ $admin =~ ^[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+$ ]] || fail "--admin must be an e-mail address, not '$admin'"
done

announce "Deployment of $tag"

image() { # NAME -> its address by digest; `docker images describe` would ask for rights that a deploying account lacks
    local digest
    digest=$(look artifacts tags list --repository=haystack --location="$REGION" --package="$1" \
        --filter="name=\"projects/$PROJECT/locations/$REGION/repositories/haystack/packages/$1/tags/$tag\"" \
        --format='csv[no-heading](name.basename(),version.basename())' | sed -n "s/^$tag,//p")
    [[ $digest =~ ^sha256:[0-9a-f]{64}$ ]] || fail "$REPOSITORY/$1:$tag is not in the repository. Push it with build_and_push.sh, or name another with --tag"
    printf '%s' "$REPOSITORY/$1@$digest"
}
api_image=$(image haystack-api)
orchestrator_image=$(image haystack-orchestrator)
inference_image=$(image haystack-inference)
number=$(project_number)

manifest=$(grep -v '^#' "cloud-run-deploy-$ENVIRONMENT.yaml")
fill() { manifest=${manifest//"\${$1}"/$2}; }
fill NAME "$NAME"
fill PROJECT "$PROJECT"
fill REGION "$REGION"
fill NUMBER "$number"
fill BUCKET "$bucket"
fill API_IMAGE "$api_image"
fill ORCHESTRATOR_IMAGE "$orchestrator_image"
fill INFERENCE_IMAGE "$inference_image"
fill SERVICE_ACCOUNT "$SERVICE_ACCOUNT"
fill ORCHESTRATOR_ACCOUNT "$ORCHESTRATOR_ACCOUNT"
fill INFERENCE_ACCOUNT "$INFERENCE_ACCOUNT"
fill ADMINS "\"$(IFS=,; printf '%s' "${admins[*]}")\""
if $vpc; then
    fill CONNECTOR "projects/$PROJECT/locations/$REGION/connectors/$CONNECTOR"
else
    manifest=$(grep -v 'vpc-access' <<<"$manifest")
fi
if $wake; then
    fill TOPIC "projects/$PROJECT/topics/$TOPIC"
    fill WAKE_ACCOUNT "$WAKE_ACCOUNT"
    fill WAKE_AUDIENCE "https://$NAME-wake-$number.$REGION.run.app"
else
    manifest=$(sed -e '/__TOPIC$/,/value:/d' -e '/__WAKE_/,/value:/d' <<<"$manifest")
fi
if [ -n "$secret" ] && ! exists secrets versions list "$secret" --filter=state=enabled --limit=1 --format='value(name)'; then
    fail "secret $secret has no value, and Cloud Run would not start with it. Add one: gcloud secrets versions add $secret --data-file=-"
fi
if [ -n "$secret" ]; then
    fill SECRET "$secret"
else
    manifest=$(sed '/name: ANTHROPIC_API_KEY/,$d' <<<"$manifest") # the last entry of the manifest
fi
! grep -Fq "\${" <<<"$manifest" || fail "the manifest has a word that nothing fills in: $(grep -F "\${" <<<"$manifest" | head -1)"

before=$(look run services describe "$NAME" --region="$REGION" --format='value(status.latestReadyRevisionName)')
say "Before: ${before:-no revision}"
rendered=$(mktemp)
trap 'rm -f "$rendered"' EXIT
printf '%s\n' "$manifest" >"$rendered"
$APPLY || sed 's/^/    /' "$rendered"
change "service $NAME with $api_image" run services replace "$rendered" --region="$REGION"

say "Who may open it"
proxy="serviceAccount:service-$number@gcp-sa-iap.iam.gserviceaccount.com"
policy=$(bindings run services get-iam-policy "$NAME" --region="$REGION")
has_line "roles/run.invoker,$proxy" "$policy" || change "identity of the proxy" beta services identity create --service=iap.googleapis.com
grant "service $NAME" "$policy" "$proxy" roles/run.invoker run services add-iam-policy-binding "$NAME" --region="$REGION"
if [ ${#members[@]} -gt 0 ]; then
    policy=$(bindings beta iap web get-iam-policy --resource-type=cloud-run --service="$NAME" --region="$REGION")
    for member in "${members[@]}"; do
        grant "proxy of $NAME" "$policy" "$member" roles/iap.httpsResourceAccessor beta iap web add-iam-policy-binding \
            --resource-type=cloud-run --service="$NAME" --region="$REGION"
    done
fi

if $wake; then
    # The proxy would keep Pub/Sub out, and Cloud Run would cut the signature off a token that it checks itself. So a second
    # service stands open, in which the same program refuses everything but messages with a token of the wake account.
    say "The service that jobs wake"
    sed -e "s/^  name: $NAME\$/  name: $NAME-wake/" -e "s#/services/$NAME\$#/services/$NAME-wake#" -e 's/iap-enabled/invoker-iam-disabled/' \
        -e 's/\(minScale:\).*/\1 "0"/' -e 's/\(maxScale:\).*/\1 "1"/' <<<"$manifest" >"$rendered"
    change "service $NAME-wake with $api_image" run services replace "$rendered" --region="$REGION"
fi

if $APPLY; then
    url=$(look run services describe "$NAME" --region="$REGION" --format='value(status.url)')
    # Behind the proxy a request without an identity is sent to sign in; a broken service answers 5xx or nothing.
    code=$(curl --silent --output /dev/null --max-time 60 --retry 3 --write-out '%{http_code}' "${HAYSTACK_SMOKE_URL:-$url}/health/ready" || true)
    case $code in
        200 | 302 | 401 | 403) say "It answers ($code): $url" ;;
        *)
            say "It does not answer as it should ($code)."
            [ -z "$before" ] || change "traffic back to $before" run services update-traffic "$NAME" --region="$REGION" --to-revisions="$before=100"
            fail "the new revision does not answer at $url/health/ready; its logs: gcloud run services logs read $NAME --region=$REGION"
            ;;
    esac
fi
finish
