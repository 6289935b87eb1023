#!/usr/bin/env bash
# Removes what setup.sh and deploy.sh made: services, topic, roles, accounts, connector, images, secrets. Jobs that still
# run are shown and stop it. The bucket, with every run and atlas, stays unless it is named twice.
#
#   teardown.sh --env dev|prod --project ID [--region us-east1] [--name haystack-ENV]
#               [--delete-images] [--delete-secret NAME]… [--delete-bucket NAME --delete-bucket NAME] [--apply]
#
# Shows the plan; --apply deletes.
set -euo pipefail
cd "$(dirname "$0")"
# shellcheck source=docker/gcp/common.sh
. ./common.sh

buckets=() secrets=() images=false
while [ $# -gt 0 ]; do
    if take_option "$@"; then
        shift "$N_TAKEN"
        continue
    fi
    case $1 in
        --delete-images) images=true ;;
        --delete-secret) secrets+=("${2-}") && shift ;;
        --delete-bucket) buckets+=("${2-}") && shift ;;
        -h | --help) sed -n '2,8s/^# \{0,1\}//p' teardown.sh && exit 0 ;;
        *) fail "unknown option $1; --help lists them" ;;
    esac
    shift
done
settle_names
case ${#buckets[@]} in
    0) ;;
    2) [ "${buckets[0]}" = "${buckets[1]}" ] || fail "--delete-bucket was given two names, ${buckets[0]} and ${buckets[1]}: name one bucket twice" ;;
    *) fail "a bucket is deleted only if it is named twice: --delete-bucket NAME --delete-bucket NAME" ;;
esac

announce "Removal"

jobs=$(look batch jobs list --location="$REGION" --filter='labels.app=haystack AND (status.state=QUEUED OR status.state=SCHEDULED OR status.state=RUNNING)' --format='value(name.basename())')
[ -z "$jobs" ] || fail "these jobs still run, and cost: $jobs. Wait for them or cancel them (haystack cancel), then run again"

for service in "$NAME" "$NAME-wake"; do
    ! exists run services describe "$service" --region="$REGION" --format='value(metadata.name)' ||
        change "service $service" run services delete "$service" --region="$REGION" --quiet
done
! exists pubsub subscriptions describe "$NAME-wake" --format='value(name)' ||
    change "subscription $NAME-wake" pubsub subscriptions delete "$NAME-wake" --quiet
! exists pubsub topics describe "$TOPIC" --format='value(name)' || change "topic $TOPIC" pubsub topics delete "$TOPIC" --quiet
if exists compute networks vpc-access connectors describe "$CONNECTOR" --region="$REGION" --format='value(name)'; then
    change "connector $CONNECTOR" compute networks vpc-access connectors delete "$CONNECTOR" --region="$REGION" --quiet
fi
if exists iam workload-identity-pools providers describe "$NAME" --workload-identity-pool=github --location=global --format='value(name)'; then
    change "identity provider $NAME" iam workload-identity-pools providers delete "$NAME" --workload-identity-pool=github --location=global --quiet
fi

# A role of a deleted account stays in the policy as "deleted:…", so roles go first.
policy=$(bindings projects get-iam-policy "$PROJECT")
while IFS=, read -r role member; do
    for account in "$SERVICE_ACCOUNT" "$ORCHESTRATOR_ACCOUNT" "$INFERENCE_ACCOUNT" "$DEPLOY_ACCOUNT" "$WAKE_ACCOUNT"; do
        [ "$member" != "serviceAccount:$account" ] || change "project: $role of $account" projects remove-iam-policy-binding "$PROJECT" --member="$member" --role="$role" --condition=None
    done
done <<<"$policy"
accounts=$(look iam service-accounts list --format='value(email)')
for account in "$SERVICE_ACCOUNT" "$ORCHESTRATOR_ACCOUNT" "$INFERENCE_ACCOUNT" "$DEPLOY_ACCOUNT" "$WAKE_ACCOUNT"; do
    ! has_line "$account" "$accounts" || change "account ${account%%@*}" iam service-accounts delete "$account" --quiet
done
for secret in "${secrets[@]}"; do
    ! exists secrets describe "$secret" --format='value(name)' || change "secret $secret" secrets delete "$secret" --quiet
done
if $images && exists artifacts repositories describe haystack --location="$REGION" --format='value(name)'; then
    change "image repository haystack, with all images" artifacts repositories delete haystack --location="$REGION" --quiet
fi
if [ ${#buckets[@]} = 2 ]; then
    ! exists storage buckets describe "gs://${buckets[0]}" --format='value(name)' ||
        change "bucket ${buckets[0]} WITH EVERY RUN AND ATLAS IN IT" storage rm --recursive --all-versions "gs://${buckets[0]}"
else
    say "Buckets stay as they are."
fi
finish
