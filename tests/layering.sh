#!/bin/sh
# layering.sh: arrows between the directories point one way (README.md, "The tree").
#
#   protocol/  knows nobody
#   sandbox/   knows protocol/ (for its error object)
#   client/    knows protocol/ and sandbox/
#   agent/     knows protocol/ and sandbox/
#
# Prints each #include that breaks this, and fails if there is one. Includes are written from the
# root of the tree ("protocol/wire.h"); any other form is refused, so that none escapes the check.
set -u
cd "${1:-$(dirname "$0")/..}" || exit 2
status=0

# forbid DIRECTORY PATTERN: no file below DIRECTORY may include what matches PATTERN.
forbid() {
    found=$(grep -rnE --include='*.[ch]' "^[[:space:]]*#[[:space:]]*include[[:space:]]+[\"<]$2" "$1")
    if [ -n "$found" ]; then
        printf '%s\n' "$found" | sed "s|\$|   <- $1/ must not include this|"
        status=1
    fi
}

for directory in protocol sandbox client agent; do
    [ -d "$directory" ] || { echo "layering: no directory $directory" >&2; exit 2; }
    forbid "$directory" '\.\.?/'
    forbid "$directory" 'tests/'
done
forbid protocol '(agent|client|sandbox)/'
forbid sandbox '(agent|client)/'
forbid client 'agent/'
forbid agent 'client/'
# The public header stands alone: a program that uses it has nothing else of ours.
forbid client/tlsagent.h '(agent|client|sandbox|protocol)/'

# A quoted name without a directory would be found beside the file: the check could not see whose it is.
# tlsagent.h is the exception: examples include it as a user's program does.
found=$(grep -rnE --include='*.[ch]' '^[[:space:]]*#[[:space:]]*include[[:space:]]+"[^/"]+"' \
    protocol sandbox client agent | grep -v '"tlsagent.h"')
if [ -n "$found" ]; then
    printf '%s\n' "$found" | sed 's|$|   <- write the path from the root of the tree|'
    status=1
fi

[ $status -eq 0 ] && echo "layering: ok"
exit $status
