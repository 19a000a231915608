# One step of a loan on the lent machine. Whoever runs it sets name, root, java, command (start) and do before it.
# The secret and agent.jar come on standard input and nowhere else. Says what it did in its last line.
set -eu
umask 077
case $root in /*) ;; *) root=$HOME/$root ;; esac
home=$root/$name
mark=JENKINS_PROVISIONER_LOAN=$name
java=${java:-${AGENT_JAVA:-java}}

# Everything that the agent started carries the mark in its environment, too.
alive() {
    grep -lsF "$mark" /proc/[0-9]*/environ 2>/dev/null | sed 's|^/proc/\([0-9]*\)/environ$|\1|' || :
}

fail() {
    echo "$1"
    exit 7
}

check() {
    command -v "$java" >/dev/null || fail "there is no Java executable $java"
    command -v setsid >/dev/null || command -v nohup >/dev/null || fail "there is neither setsid nor nohup"
    [ -e /proc/self/environ ] || fail "there is no /proc; only Linux machines can be lent"
    why=$(mkdir -p "$root" 2>&1) || fail "the folder $root cannot be made: $why"
    rmdir "$root" 2>/dev/null || :
    echo ready
}

start() {
    if [ -n "$(alive)" ]; then
        cat >/dev/null
        echo running
        return
    fi
    why=$(mkdir -p "$home/work" 2>&1) || fail "the folder $home cannot be made: $why"
    cd "$home"
    if ! mkdir lock 2>/dev/null; then
        cat >/dev/null
        if [ -n "$(find lock -prune -mmin +1)" ]; then rmdir lock; fi
        echo starting
        return
    fi
    trap 'rmdir "$home/lock" 2>/dev/null || :' EXIT
    if [ -s agent.log ]; then echo "the last one ended: $(tail -n 3 agent.log | tr '\n' ' ')"; fi
    IFS= read -r secret
    printf %s "$secret" >secret.new
    unset secret
    mv secret.new secret
    cat >agent.jar.new
    mv agent.jar.new agent.jar
    detach=$(command -v setsid || command -v nohup) || fail "there is neither setsid nor nohup"
    # nothing of the environment of whoever runs this: it may hold secrets of the lender
    env -i "$mark" PATH="$PATH" HOME="$HOME" USER="${USER:-}" LOGNAME="${LOGNAME:-}" LANG="${LANG:-C.UTF-8}" \
        "$detach" "$java" "$@" >agent.log 2>&1 </dev/null &
    sleep 1
    [ -n "$(alive)" ] || fail "the agent ended at once: $(tail -n 3 agent.log | tr '\n' ' ')"
    echo started
}

stop() {
    tries=0
    signal=TERM
    while pids=$(alive) && [ -n "$pids" ]; do
        [ "$tries" -lt 20 ] || fail "these processes cannot be ended: $pids"
        [ "$tries" -lt 10 ] || signal=KILL
        kill -s "$signal" $pids 2>/dev/null || :
        sleep 1
        tries=$((tries + 1))
    done
    cd /
    if [ -e "$home" ]; then
        # what a container of the borrower made as root cannot be removed here; the secret comes first
        rm -f "$home/secret" "$home/secret.new"
        chmod -R u+rwX "$home" 2>/dev/null || :
        rm -rf "$home" 2>/dev/null || :
        [ ! -e "$home" ] || fail "not all of $home can be removed; remove it there by hand"
    fi
    rmdir "$root" 2>/dev/null || :
    echo stopped
}
