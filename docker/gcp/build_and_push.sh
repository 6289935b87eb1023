#!/usr/bin/env bash
# Builds the images from the repository's files and pushes them to Artifact Registry.
#
#   build_and_push.sh --env dev|prod --project ID [--region us-east1] [--tag TAG] [--only api,orchestrator,inference,lab]
#                     [--builder docker|podman|buildah] [--apply]
#
# Shows the plan; --apply builds and pushes. The tag is the commit; files that are not committed are refused, because an
# image must tell what it holds.
set -euo pipefail
cd "$(dirname "$0")"
# shellcheck source=docker/gcp/common.sh
. ./common.sh

tag="" only="api,orchestrator,inference,lab" builder=""
while [ $# -gt 0 ]; do
    if take_option "$@"; then
        shift "$N_TAKEN"
        continue
    fi
    case $1 in
        --tag) tag=${2-} && shift ;;
        --only) only=${2-} && shift ;;
        --builder) builder=${2-} && shift ;;
        -h | --help) sed -n '2,8s/^# \{0,1\}//p' build_and_push.sh && exit 0 ;;
        *) fail "unknown option $1; --help lists them" ;;
    esac
    shift
done
settle_names
for name in docker podman buildah; do
    [ -n "$builder" ] || ! command -v "$name" >/dev/null || builder=$name
done
[[ $builder =~ ^(docker|podman|buildah)$ ]] || fail "no docker, podman or buildah is on the path (--builder says which)"
cd ../..
revision=$(git rev-parse HEAD)
: "${tag:=${revision:0:12}}"
[[ $tag =~ ^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$ ]] || fail "--tag must be an image tag, not '$tag'"
[ -z "$(git status --porcelain)" ] || fail "the checkout has changes that are not committed; commit them, so that $tag tells what the images hold"

announce "Images $tag with $builder"
version=$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
run() { # WHAT COMMAND…
    local what=$1
    shift
    N_CHANGES=$((N_CHANGES + 1))
    say "  + $what"
    say "      $(printf '%q ' "$@")"
    ! $APPLY || "$@" || fail "$what: $builder failed (its words are above). What was pushed before stays; mend the cause and run again"
}
change "credentials of $builder for $REGION-docker.pkg.dev" auth configure-docker "$REGION-docker.pkg.dev" --quiet
source=$(git remote get-url origin 2>/dev/null | sed 's#//[^/@]*@#//#' || true) # without a token that stands in it
IFS=, read -ra names <<<"$only"
for name in "${names[@]}"; do
    [ -f "docker/Dockerfile.$name" ] || fail "--only names '$name'; possible: api, orchestrator, inference, lab"
    image="$REPOSITORY/haystack-$name:$tag"
    run "build $name" "$builder" build -f "docker/Dockerfile.$name" --build-arg "VERSION=$version" --build-arg "REVISION=$revision" \
        --build-arg "SOURCE=$source" -t "$image" .
    run "push $name" "$builder" push "$image"
done
finish
