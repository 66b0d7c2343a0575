# A container: a root of its own, an ordinary user, no way to new privileges. The first process of its namespaces; becomes the command.
# Whoever may become any user does; root of a single-user namespace (HOW = map) goes into a further one, in which it bears that user's id.
#   ROOT IMAGE UID GID HOW HOSTNAME ETC FIXED  [program FILE NAME]... [mount DIRECTORY PATH ro|rw]...  -- [VARIABLE=VALUE]...  -- COMMAND...
set -eu
root=$1 image=$2 uid=$3 gid=$4 how=$5 name=$6 etc=$7 fixed=$8
shift 8

hostname "$name"
mount --make-rprivate /
mount -t tmpfs -o mode=755,size=64m tmpfs "$root"
mkdir -p "$root/usr/local/bin" "$root/proc" "$root/dev/shm" "$root/etc" "$root/run" "$root/var" "$root/tmp"
chmod 1777 "$root/tmp"

fixed() {
    mount --bind "$1" "$2"
    mount -o remount,bind,ro "$2"
}
if [ "$image" = system ]; then
    fixed /usr "$root/usr"
    mount -t tmpfs -o mode=755,size=64m tmpfs "$root/usr/local/bin"
    parts="bin sbin lib lib64"
else
    # Libraries, and no shell.
    parts="lib lib64"
    for part in $parts; do
        [ -d "/usr/$part" ] || continue
        mkdir -p "$root/usr/$part"
        fixed "/usr/$part" "$root/usr/$part"
    done
fi
for part in $parts; do [ -d "/usr/$part" ] && ln -s "usr/$part" "$root/$part"; done

# File by file, so that volumes can be mounted beside them.
for file in "$etc"/*; do
    : >"$root/etc/${file##*/}"
    fixed "$file" "$root/etc/${file##*/}"
done
mount -t proc proc "$root/proc"
mount -t tmpfs -o mode=1777,size=64m tmpfs "$root/dev/shm"
for device in null zero full random urandom; do
    : >"$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done

while [ "$1" != -- ]; do
    case $1 in
    program)
        : >"$root/usr/local/bin/$3"
        fixed "$2" "$root/usr/local/bin/$3"
        shift 3
        ;;
    mount)
        mkdir -p "$root$3"
        if [ "$4" = ro ]; then fixed "$2" "$root$3"; else mount --bind "$2" "$root$3"; fi
        shift 4
        ;;
    esac
done
shift
[ "$fixed" = 0 ] || mount -o remount,bind,ro "$root"

# What is left: variables, --, the command.
count=0
for word in "$@"; do
    [ "$word" = -- ] && break
    count=$((count + 1))
done
total=$# index=0
for word in "$@"; do
    index=$((index + 1))
    shift
    if [ "$index" -eq $((count + 1)) ]; then
        if [ "$how" = map ]; then
            set -- "$@" setpriv --no-new-privs unshare --user --map-user="$uid" --map-group="$gid" --root="$root" --
        else
            set -- "$@" setpriv --no-new-privs chroot --userspec="$uid:$gid" --groups="$gid" "$root"
        fi
    else
        set -- "$@" "$word"
    fi
    [ "$index" -lt "$total" ] || break
done
cd /
exec env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$@"
