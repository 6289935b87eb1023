#!/usr/bin/env bash
# Prepares a Google Cloud project for HAYSTACK: APIs, service accounts with the least they need, bucket, image
# repository, secrets, and where asked a VPC connector, a deployment from GitHub, and that jobs wake the service.
#
#   setup.sh --env dev|prod --project ID [--region us-east1] [--name haystack-ENV] [--bucket NAME] [--vpc] [--wake]
#            [--github OWNER/REPOSITORY] [--secret NAME]… [--apply]
#
# Shows the plan; --apply makes the changes. What exists is kept, so it can be run again at any time.
set -euo pipefail
cd "$(dirname "$0")"
# shellcheck source=docker/gcp/common.sh
. ./common.sh

bucket="" vpc=false wake=false github="" secrets=()
while [ $# -gt 0 ]; do
    if take_option "$@"; then
        shift "$N_TAKEN"
        continue
    fi
    case $1 in
        --bucket) bucket=${2-} && shift ;;
        --vpc) vpc=true ;;
        --wake) wake=true ;;
        --github) github=${2-} && shift ;;
        --secret) secrets+=("${2-}") && shift ;;
        -h | --help) sed -n '2,8s/^# \{0,1\}//p' setup.sh && exit 0 ;;
        *) fail "unknown option $1; --help lists them" ;;
    esac
    shift
done
settle_names
: "${bucket:=$PROJECT-$NAME}"
[[ $bucket =~ ^[a-z0-9][a-z0-9_-]{1,61}[a-z0-9]$ ]] || fail "--bucket must be a bucket name, not '$bucket'"
[[ -z $github || $github =~ ^[A-Za-z0-9-]+/[A-Za-z0-9._-]+$ ]] || fail "--github must be OWNER/REPOSITORY, not '$github'"
[ ${#secrets[@]} -gt 0 ] || secrets=("$NAME-anthropic-api-key")
for secret in "${secrets[@]}"; do
    [[ $secret =~ ^[A-Za-z0-9_-]{1,255}$ ]] || fail "--secret must be letters, digits, hyphens and underscores, not '$secret'"
done

announce "Set-up"

say "APIs"
apis=(artifactregistry batch cloudresourcemanager compute iam iamcredentials iap logging run secretmanager storage)
$vpc && apis+=(vpcaccess)
$wake && apis+=(pubsub)
[ -n "$github" ] && apis+=(sts)
enabled=$(look services list --enabled --format='value(config.name)')
missing=()
for api in "${apis[@]}"; do
    has_line "$api.googleapis.com" "$enabled" || missing+=("$api.googleapis.com")
done
[ ${#missing[@]} = 0 ] || change "enable ${missing[*]}" services enable "${missing[@]}"

say "Service accounts"
accounts=$(look iam service-accounts list --format='value(email)')
make_account() { # EMAIL PURPOSE
    has_line "$1" "$accounts" || change "account ${1%%@*}: $2" iam service-accounts create "${1%%@*}" --display-name="HAYSTACK: $2"
}
make_account "$SERVICE_ACCOUNT" "the web service"
make_account "$ORCHESTRATOR_ACCOUNT" "jobs that work a run"
make_account "$INFERENCE_ACCOUNT" "jobs that predict"
[ -z "$github" ] || make_account "$DEPLOY_ACCOUNT" "deployment from GitHub"
$wake && make_account "$WAKE_ACCOUNT" "messages of jobs to the service"

say "Roles in the project"
policy=$(bindings projects get-iam-policy "$PROJECT")
in_project() { # EMAIL ROLE…
    local email=$1 role
    shift
    for role in "$@"; do
        grant project "$policy" "serviceAccount:$email" "$role" projects add-iam-policy-binding "$PROJECT" --condition=None
    done
}
in_project "$SERVICE_ACCOUNT" roles/batch.jobsEditor roles/logging.logWriter roles/logging.viewer
in_project "$ORCHESTRATOR_ACCOUNT" roles/batch.agentReporter roles/batch.jobsEditor roles/logging.logWriter roles/logging.viewer
in_project "$INFERENCE_ACCOUNT" roles/batch.agentReporter roles/logging.logWriter
[ -z "$github" ] || in_project "$DEPLOY_ACCOUNT" roles/run.developer

say "Who may run jobs as whom"
as_account() { # MEMBER ACCOUNT
    local policy
    policy=$(bindings iam service-accounts get-iam-policy "$2")
    grant "account ${2%%@*}" "$policy" "serviceAccount:$1" roles/iam.serviceAccountUser iam service-accounts add-iam-policy-binding "$2"
}
as_account "$SERVICE_ACCOUNT" "$ORCHESTRATOR_ACCOUNT"
as_account "$ORCHESTRATOR_ACCOUNT" "$INFERENCE_ACCOUNT"
[ -z "$github" ] || as_account "$DEPLOY_ACCOUNT" "$SERVICE_ACCOUNT"

say "Bucket gs://$bucket"
found=$(look storage buckets describe "gs://$bucket" --format='csv[no-heading](uniform_bucket_level_access,versioning_enabled,public_access_prevention,lifecycle_config.rule.len())')
if [ -z "$found" ]; then
    change "bucket $bucket" storage buckets create "gs://$bucket" --location="$REGION" --uniform-bucket-level-access --public-access-prevention
    found="True,,enforced,0"
fi
IFS=, read -r uniform versioning prevention n_rules <<<"$found"
[ "${uniform,,}" = true ] || change "bucket $bucket: access by roles alone" storage buckets update "gs://$bucket" --uniform-bucket-level-access
[ "${prevention,,}" = enforced ] || change "bucket $bucket: never public" storage buckets update "gs://$bucket" --public-access-prevention
[ "${versioning,,}" = true ] || change "bucket $bucket: keep overwritten objects" storage buckets update "gs://$bucket" --versioning
[ "${n_rules:-0}" != 0 ] || change "bucket $bucket: overwritten objects go after 30 days" storage buckets update "gs://$bucket" --lifecycle-file=lifecycle.json
policy=$(bindings storage buckets get-iam-policy "gs://$bucket")
for account in "$SERVICE_ACCOUNT" "$ORCHESTRATOR_ACCOUNT" "$INFERENCE_ACCOUNT"; do
    grant "bucket $bucket" "$policy" "serviceAccount:$account" roles/storage.objectUser storage buckets add-iam-policy-binding "gs://$bucket"
done

say "Images $REPOSITORY"
if ! exists artifacts repositories describe haystack --location="$REGION" --format='value(name)'; then
    change "image repository haystack" artifacts repositories create haystack --location="$REGION" --repository-format=docker --description="HAYSTACK images"
fi
policy=$(bindings artifacts repositories get-iam-policy haystack --location="$REGION")
in_repository() { # EMAIL ROLE
    grant "image repository" "$policy" "serviceAccount:$1" "$2" artifacts repositories add-iam-policy-binding haystack --location="$REGION"
}
in_repository "$ORCHESTRATOR_ACCOUNT" roles/artifactregistry.reader
in_repository "$INFERENCE_ACCOUNT" roles/artifactregistry.reader
[ -z "$github" ] || in_repository "$DEPLOY_ACCOUNT" roles/artifactregistry.writer

say "Secrets"
existing=$(look secrets list --format='value(name.basename())')
for secret in "${secrets[@]}"; do
    has_line "$secret" "$existing" || change "secret $secret, without a value yet" secrets create "$secret" --replication-policy=automatic
    policy=$(bindings secrets get-iam-policy "$secret")
    for account in "$SERVICE_ACCOUNT" "$ORCHESTRATOR_ACCOUNT"; do
        grant "secret $secret" "$policy" "serviceAccount:$account" roles/secretmanager.secretAccessor secrets add-iam-policy-binding "$secret"
    done
done

if $vpc; then
    say "VPC connector"
    if ! exists compute networks vpc-access connectors describe "$CONNECTOR" --region="$REGION" --format='value(name)'; then
        change "connector $CONNECTOR" compute networks vpc-access connectors create "$CONNECTOR" --region="$REGION" --network=default --range=10.8.0.0/28
    fi
fi

if $wake; then
    say "Jobs wake the service"
    if ! exists pubsub topics describe "$TOPIC" --format='value(name)'; then
        change "topic $TOPIC" pubsub topics create "$TOPIC" --message-retention-duration=1h
    fi
    # Batch publishes as the job's account; only jobs that work a run do.
    policy=$(bindings pubsub topics get-iam-policy "$TOPIC")
    grant "topic $TOPIC" "$policy" "serviceAccount:$ORCHESTRATOR_ACCOUNT" roles/pubsub.publisher pubsub topics add-iam-policy-binding "$TOPIC"
    if ! exists pubsub subscriptions describe "$NAME-wake" --format='value(name)'; then
        # deploy.sh --wake puts a service at this address; until then Pub/Sub tries again.
        url="https://$NAME-wake-$(project_number).$REGION.run.app"
        change "subscription $NAME-wake, pushed to $url" pubsub subscriptions create "$NAME-wake" --topic="$TOPIC" \
            --push-endpoint="$url/hooks/batch" --push-auth-service-account="$WAKE_ACCOUNT" --push-auth-token-audience="$url" \
            --ack-deadline=60 --message-retention-duration=1h --expiration-period=never --min-retry-delay=10s --max-retry-delay=600s
    fi
fi

if [ -n "$github" ]; then
    say "Deployment from github.com/$github"
    if ! exists iam workload-identity-pools describe github --location=global --format='value(name)'; then
        change "identity pool github" iam workload-identity-pools create github --location=global --display-name=GitHub
    fi
    # Only tokens of this one repository are accepted, and no key exists that could leak.
    if ! exists iam workload-identity-pools providers describe "$NAME" --workload-identity-pool=github --location=global --format='value(name)'; then
        change "identity provider $NAME" iam workload-identity-pools providers create-oidc "$NAME" \
            --workload-identity-pool=github --location=global --issuer-uri=https://token.actions.githubusercontent.com \
            --attribute-mapping=google.subject=assertion.sub,attribute.repository=assertion.repository \
            --attribute-condition="assertion.repository == '$github'"
    fi
    member="principalSet://iam.googleapis.com/projects/$(project_number)/locations/global/workloadIdentityPools/github/attribute.repository/$github"
    policy=$(bindings iam service-accounts get-iam-policy "$DEPLOY_ACCOUNT")
    grant "account ${DEPLOY_ACCOUNT%%@*}" "$policy" "$member" roles/iam.workloadIdentityUser iam service-accounts add-iam-policy-binding "$DEPLOY_ACCOUNT"
fi

finish

say
say "GPU quota: a prediction takes 1 of its kind, and 1 of all regions; a large round takes up to 8 (batch.max_shards)."
quotas=$(look compute regions describe "$REGION" --flatten='quotas[]' --format='csv[no-heading](quotas.metric,quotas.limit,quotas.usage)')
quotas+=$'\n'$(look compute project-info describe --flatten='quotas[]' --format='csv[no-heading](quotas.metric,quotas.limit,quotas.usage)')
show_quota() { # METRIC USE
    local line limit used
    line=$(grep "^$1," <<<"$quotas" || true)
    IFS=, read -r _ limit used <<<"$line"
    case ${limit%.*} in
        "") say "  $1: not shown, so probably 0; $2. Ask for 1 or more" ;;
        0) say "  $1: 0; $2. Ask for 1 or more" ;;
        *) say "  $1: ${limit%.*}, of which ${used%.*} in use; $2" ;;
    esac
}
show_quota NVIDIA_A100_GPUS "machine a100-40gb, the usual one"
show_quota PREEMPTIBLE_NVIDIA_A100_GPUS "the same on Spot (batch.spot)"
show_quota NVIDIA_A100_80GB_GPUS "machine a100-80gb"
show_quota NVIDIA_L4_GPUS "machine l4"
show_quota GPUS_ALL_REGIONS "the limit of the project, whatever the kind"
say "Ask at https://console.cloud.google.com/iam-admin/quotas?project=$PROJECT (filter: the name above, region $REGION)."
say
say "Next:"
for secret in "${secrets[@]}"; do
    say "  gcloud secrets versions add $secret --data-file=-    # paste the value, then Ctrl-D; only where it is used"
done
say "  docker/gcp/build_and_push.sh --env $ENVIRONMENT --project $PROJECT --region $REGION --apply"
say "  docker/gcp/deploy.sh --env $ENVIRONMENT --project $PROJECT --region $REGION --bucket $bucket$($wake && printf ' --wake') --member user:YOU --apply"
