#!/bin/sh
# Compares protos/ with the newest released tag; before the first release with the parent commit.
set -eu
buf="$1"
against="$(git describe --tags --abbrev=0 --match 'v[0-9]*' 2>/dev/null || git rev-parse --verify --quiet HEAD~1 || true)"
if [ -z "$against" ]; then
  echo "nothing to compare with"
  exit 0
fi
old="$(mktemp -d)"
trap 'rm -rf "$old"' EXIT
if ! git archive "$against" protos buf.yaml 2>/dev/null | tar -x -C "$old"; then
  echo "$against has no protos"
  exit 0
fi
exec "$buf" breaking --against "$old"
