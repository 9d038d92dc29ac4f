#!/bin/sh
# Reads lines "NUMBER COMMAND" (the command in base64) from the host and runs each with sh, side by side. Answers each with one
# line "NUMBER EXIT-CODE OUTPUT ERRORS", both in base64.
port=/dev/virtio-ports/lab.agent
work=/run/lab-agent
mkdir -p "$work"
exec 3<>"$port"
printf '\nup %s\n' "$(cat /proc/sys/kernel/random/boot_id)" >&3

answer() {
    echo "$2" | base64 -d >"$work/$1.sh"
    sh "$work/$1.sh" </dev/null >"$work/$1.out" 2>"$work/$1.err" 3>&-
    code=$?
    printf '%s %s :%s :%s\n' "$1" "$code" "$(base64 -w 0 "$work/$1.out")" "$(base64 -w 0 "$work/$1.err")" >"$work/$1.answer"
    # One answer at a time, whole.
    flock "$work/lock" cat "$work/$1.answer" >&3
    rm -f "$work/$1".*
}

while read -r number command <&3; do
    answer "$number" "$command" &
done
