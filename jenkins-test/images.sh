#!/bin/bash
# The images of the docker tier, made from Debian packages alone; no image registry is needed.
#
#   images.sh [busybox] [agent] [sshd] [musl]   default: all; what exists is left alone
#   FORCE=1 images.sh agent                  make it again
#
# Needs root, a Docker engine, debootstrap and busybox-static; for musl, which is compiled from Debian's source,
# gcc, make, bzip2 and curl (unless it is named, it is left out where it cannot be made). MIRROR=URL names another
# Debian mirror than the one of this machine's apt, KEYRING=FILE the keys of a machine that is not a Debian.
set -euo pipefail

prefix=jenkins-provisioner-test
suite=bookworm
limit_s=1200 # for each step that waits for a network

say() { printf 'images: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

usage() { sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 2; }

exists() { docker image inspect "$prefix/$1:latest" >/dev/null 2>&1; }

work=
container=
sweep() {
    [ -z "$container" ] || docker rm --force "$container" >/dev/null 2>&1 || true
    [ -n "$work" ] || return 0
    # an interrupted debootstrap leaves its mounts
    local inside
    for inside in dev/pts dev proc sys; do
        if mountpoint -q "$work/root/$inside"; then umount "$work/root/$inside" || true; fi
    done
    rm -rf --one-file-system "$work"
}
trap sweep EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

new_root() {
    rm -rf --one-file-system "$work/root"
    mkdir "$work/root"
}

# import NAME CHANGE…: the root folder becomes an image
import() {
    local name=$1 change
    local -a changes=()
    shift
    for change in "$@"; do changes+=(--change "$change"); done
    tar --create --directory "$work/root" --numeric-owner --one-file-system . |
        docker import "${changes[@]}" - "$prefix/$name:latest" >/dev/null
}

# A static shell and nothing else: no libc, no Java.
make_busybox() {
    local busybox root=$work/root applet
    busybox=$(command -v busybox) || die 'no busybox here; install busybox-static'
    new_root
    install -d "$root"/{bin,etc,proc,sys,dev,home}
    install -d -m 1777 "$root"/tmp "$root"/var/tmp
    install -d -m 700 "$root"/root
    install -m 755 "$busybox" "$root/bin/busybox"
    "$root/bin/busybox" --list | while read -r applet; do
        [ "$applet" = busybox ] || ln -s busybox "$root/bin/$applet"
    done
    printf '%s\n' root:x:0:0::/root:/bin/sh jenkins:x:1000:1000::/home/jenkins:/bin/sh >"$root/etc/passwd"
    printf '%s\n' root:x:0: jenkins:x:1000: >"$root/etc/group"
    install -d -o 1000 -g 1000 "$root/home/jenkins"
    chroot "$root" /bin/sh -c true 2>/dev/null || die "$busybox is not static; install busybox-static"
    import busybox 'ENV PATH=/bin' 'CMD ["/bin/sh"]'
}

# The mirror that apt uses here for the suite, else Debian's own.
mirror() {
    local found=
    if [ -n "${MIRROR:-}" ]; then
        found=$MIRROR
    elif command -v apt-get >/dev/null; then
        found=$(apt-get indextargets --format '$(CODENAME) $(COMPONENT) $(LABEL) $(REPO_URI)' 'Created-By: Packages' |
            awk -v suite="$suite" '$1 == suite && $2 == "main" && $3 == "Debian" { print $4; exit }') || true
    fi
    printf '%s\n' "${found:-http://deb.debian.org/debian}"
}

# The proxy that apt uses here; debootstrap and the container know only the variable.
proxy() {
    local found=
    command -v apt-config >/dev/null || return 0
    eval "$(apt-config shell found Acquire::http::Proxy)"
    [ "$found" = DIRECT ] || printf '%s\n' "$found"
}

# Debian with a Java 17 runtime and git, and the account that builds run as.
make_agent() {
    local root=$work/root through arch from
    from=$(mirror)
    through=$(proxy)
    say "debootstrap $suite from $from"
    new_root
    http_proxy=${through:-${http_proxy:-}} timeout "$limit_s" debootstrap --variant=minbase --force-check-gpg \
        ${KEYRING:+"--keyring=$KEYRING"} --include=openjdk-17-jre-headless,git,ca-certificates,procps \
        "$suite" "$root" "$from" >"$work/log" 2>&1 || { tail -n 20 "$work/log" >&2; die 'debootstrap failed'; }
    arch=$(chroot "$root" dpkg --print-architecture)
    chroot "$root" useradd --uid 1000 --user-group --create-home --shell /bin/bash jenkins
    # packages installed on top (sshd, below) start no daemon
    printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
    chmod 755 "$root/usr/sbin/policy-rc.d"
    rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/var/log/* "$root"/usr/share/{doc,info,locale,man}/*
    install -d "$root/var/cache/apt/archives/partial" "$root/usr/share/man/man1" # Java's packages want the last
    rm -f "$root/etc/resolv.conf" "$root/etc/hostname"
    : >"$root/etc/machine-id"
    import agent 'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' 'ENV LANG=C.UTF-8' \
        "ENV JAVA_HOME=/usr/lib/jvm/java-17-openjdk-$arch" 'USER jenkins' 'WORKDIR /home/jenkins' 'CMD ["/bin/bash"]'
}

# The agent image with an SSH server. It holds no keys: the tests bring authorized_keys, each start its host keys.
make_sshd() {
    exists agent || make agent
    # the host's network: the same way to the mirror as this machine has
    container=$(docker create --network host --user root --workdir / "$prefix/agent:latest" \
        sh -ec '[ -z "$1" ] || export http_proxy="$1"
                apt-get -q update
                DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends openssh-server
                rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/cache/apt/archives/*.deb /etc/ssh/ssh_host_*
                install -d -o jenkins -g jenkins -m 700 /home/jenkins/.ssh
                usermod --password "*" jenkins  # a locked account ("!") may not log in with a key either' sh "$(proxy)")
    timeout "$limit_s" docker start --attach "$container" >"$work/log" 2>&1 ||
        { tail -n 20 "$work/log" >&2; die 'installing openssh-server failed'; }
    docker commit --change 'USER root' --change 'WORKDIR /' --change 'EXPOSE 22' \
        --change 'CMD ["/bin/sh", "-c", "mkdir -p /run/sshd && ssh-keygen -A && exec /usr/sbin/sshd -D -e -o PasswordAuthentication=no"]' \
        "$container" "$prefix/sshd:latest" >/dev/null
    docker rm "$container" >/dev/null
    container=
}

# As Alpine: every program is linked against musl, which is the only C library.
make_musl() {
    local root=$work/root with=$work/musl at=$work/busybox applet option from through
    local source=busybox_1.35.0.orig.tar.bz2 sum=faeeb244c35a348a334f4a59e44626ee870fb07b6884d68c10ae8bc19f83a694
    say "busybox for musl from $(mirror)"
    mkdir "$with" "$at"
    (cd "$with" && apt-get -q download musl musl-dev musl-tools >"$work/log" 2>&1) ||
        { tail -n 20 "$work/log" >&2; die 'the packages of musl cannot be had'; }
    for applet in "$with"/*.deb; do dpkg-deb -x "$applet" "$with"; done
    from=$(mirror) through=$(proxy)
    http_proxy=${through:-${http_proxy:-}} curl -sfL --max-time 120 -o "$work/$source" "${from%/}/pool/main/b/busybox/$source" ||
        die 'the source of busybox cannot be had'
    printf '%s  %s\n' "$sum" "$work/$source" | sha256sum --check --quiet || die 'the source of busybox is another one'
    tar -xjf "$work/$source" --strip-components 1 -C "$at"
    local lib
    lib=$(dirname "$(find "$with/usr/lib" -name musl-gcc.specs)")
    sed "s#/usr/include/#$with&#g; s#/usr/lib/#$with&#g" "$lib/musl-gcc.specs" >"$with/specs"
    # the kernel's headers, which musl does not bring, come from this machine
    printf '#!/bin/sh\nexec gcc "$@" -idirafter /usr/include -idirafter "/usr/include/$(gcc -print-multiarch)" -specs %s\n' \
        "$with/specs" >"$with/cc"
    chmod 755 "$with/cc"
    (
        cd "$at"
        command make allnoconfig
        for option in LFS LONG_OPTS SH_IS_ASH ASH ASH_ECHO ASH_PRINTF ASH_TEST ASH_CMDCMD ASH_GETOPTS FEATURE_SH_MATH \
            FEATURE_FANCY_HEAD FEATURE_FANCY_TAIL FEATURE_STAT_FORMAT BASENAME CAT CHMOD CP CUT DATE DD DIRNAME ECHO ENV \
            EXPR FALSE FIND GREP HEAD HOSTNAME ID KILL LN LS MKDIR MV NOHUP PRINTF PS PWD RM RMDIR SED SLEEP SORT STAT \
            TAIL TEST TOUCH TR TRUE UNAME WC WHOAMI; do
            sed -i "s/^# CONFIG_$option is not set/CONFIG_$option=y/" .config
        done
        yes '' | command make oldconfig
        command make -j2 CC="$with/cc" HOSTCC=gcc busybox busybox.links
    ) >"$work/log" 2>&1 || { tail -n 20 "$work/log" >&2; die 'busybox cannot be compiled'; }
    new_root
    install -d "$root"/{bin,etc,lib,proc,sys,dev,home}
    install -d -m 1777 "$root"/tmp "$root"/var/tmp
    install -d -m 700 "$root"/root
    install -m 755 "$(find "$with/lib" -name libc.so)" "$root/lib/$(basename "$(find "$with/lib" -name 'ld-musl-*')")"
    install -m 755 "$at/busybox" "$root/bin/busybox"
    while read -r applet; do ln -sf busybox "$root/bin/${applet##*/}"; done <"$at/busybox.links"
    printf '%s\n' root:x:0:0::/root:/bin/sh jenkins:x:1000:1000::/home/jenkins:/bin/sh >"$root/etc/passwd"
    printf '%s\n' root:x:0: jenkins:x:1000: >"$root/etc/group"
    install -d -o 1000 -g 1000 "$root/home/jenkins"
    chroot "$root" /bin/sh -c true || die 'the shell that was compiled does not run'
    import musl 'ENV PATH=/bin' 'USER jenkins' 'CMD ["/bin/sh"]'
}

make() {
    local name=$1 began=$SECONDS old
    old=$(docker image inspect --format '{{.Id}}' "$prefix/$name:latest" 2>/dev/null) || old=
    "make_$name"
    # the one that lost its name; kept where a container still uses it
    [ -z "$old" ] || docker rmi "$old" >/dev/null 2>&1 || true
    say "$prefix/$name:latest made in $((SECONDS - began)) s"
}

if [ $# -eq 0 ]; then
    "$0" busybox agent sshd
    "$0" musl || say 'no image with musl; the tests that want it say so'
    exit 0
fi
for name in "$@"; do
    case $name in busybox | agent | sshd | musl) ;; *) usage ;; esac
done
todo=()
for name in "$@"; do
    docker version --format '{{.Server.Version}}' >/dev/null || die 'no Docker engine answers'
    if [ "${FORCE:-0}" != 1 ] && exists "$name"; then say "$prefix/$name:latest is there"; else todo+=("$name"); fi
done
[ ${#todo[@]} -gt 0 ] || exit 0
[ "$(id -u)" = 0 ] || die "making ${todo[*]} needs root (debootstrap, chroot)"
work=$(mktemp -d)
chmod 755 "$work"
for name in "${todo[@]}"; do make "$name"; done
