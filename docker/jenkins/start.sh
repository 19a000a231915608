#!/bin/bash
# Makes the passwords of the accounts in jenkins.yaml at the first start, then starts Jenkins.
# Read the administrator's: docker compose exec jenkins cat /var/jenkins_home/.generated/ADMIN_PASSWORD
set -euo pipefail

(
    umask 077
    mkdir -p "$SECRETS"
    for name in ADMIN_PASSWORD PROVISIONER_PASSWORD; do
        [ -s "$SECRETS/$name" ] || head -c 24 /dev/urandom | base64 | tr -d '\n' | tr '+/' '-_' >"$SECRETS/$name"
    done
)
exec /usr/local/bin/jenkins.sh "$@"
