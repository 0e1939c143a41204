# What docs/scenarios/node-operator.md meets in the place of a cluster: kubelet's directories, written as
# kubelet writes them; a guest that is a directory; and the programs of the cluster, which do to both
# what a cluster would.
pod=6f5c1d2e-1111-2222-3333-444455556666
kubelet=$at/kubelet guest=$at/guest
export SEALIFT_HOST_SOCKET=$at/host.sock SEALIFT_GUEST_ROOT=$guest

start_guest() {
    sealift-guest run --listen "unix:$at/guest.sock" --plain-directories >>"$at/guest.log" 2>&1 &
    guest_agent=$!
    until sealift guest status >/dev/null 2>&1; do kill -0 "$guest_agent"; sleep 0.05; done
}
start_host() {
    mkdir -p "$kubelet/pods"
    sealift-host run --kubelet-root "$kubelet" --state-dir "$at/state" >>"$at/host.log" 2>&1 &
    host_agent=$!
    until sealift status >/dev/null 2>&1; do kill -0 "$host_agent"; sleep 0.05; done
}
stop() {
    kill "$1"
    wait "$1" || true
}

# Lines of a path, a tab and a content become the volume's next revision, in kubelet's steps.
write_volume() {
    local volume=$kubelet/pods/$pod/volumes/kubernetes.io~$1 path content new old
    mkdir -p "$volume"
    new=$(mktemp -d "$volume/..XXXXXX")
    chmod 0755 "$new"
    while IFS=$'\t' read -r path content; do
        mkdir -p "$(dirname "$new/$path")"
        printf %s "$content" >"$new/$path"
    done
    old=$(readlink "$volume/..data" || true)
    ln -s "$(basename "$new")" "$volume/..data_tmp"
    mv -T "$volume/..data_tmp" "$volume/..data"
    for path in "$new"/*; do ln -sfn "..data/$(basename "$path")" "$volume/$(basename "$path")"; done
    for path in "$volume"/*; do [ -e "$path" ] || rm "$path"; done
    [ -z "$old" ] || rm -r "${volume:?}/$old"
}
# The values of the objects of one kind in a file, as write_volume takes them.
values() {
    awk -v wanted="$2" '
        /^kind: / { kind = $2 }
        /^(stringData|data):/ { inside = kind == wanted; next }
        /^[^ ]/ { inside = 0 }
        inside { key = $1; sub(/:$/, "", key); sub(/^ *[^ ]+ /, ""); gsub(/"/, ""); print key "\t" $0 }
    ' "$1"
}
part() { printf %s "$1" | base64 --wrap=0 | tr -d = | tr '/+' '_-'; }
apply() {
    values "$1" Secret | write_volume secret/db
    grep -q '^kind: Pod$' "$1" || return 0
    values "$1" ConfigMap | sed 's,^,etc/app/,' | write_volume configmap/settings
    local now
    now=$(date +%s)
    printf 'token\t%s.%s.%s\n' "$(part '{"alg":"RS256"}')" \
        "$(part "{\"iat\":$now,\"exp\":$((now + 600))}")" "$(part signature)" |
        write_volume projected/kube-api
    # What the plugin of the container runtime does when the pod's sandbox runs.
    sealift-host attach --guest "unix:$at/guest.sock" --pod "$pod"
}
in_container() {
    local volumes=$guest/volumes/$pod words=()
    for word; do
        word=${word/#\/etc\/db/$volumes.db/data}
        word=${word/#\/etc\/settings/$volumes.settings/data}
        words+=("$word")
    done
    "${words[@]}"
}

kubectl() {
    case "$*" in
        "apply -f "*) apply "$3" ;;
        "get pod web -o jsonpath="*) echo "$pod" ;;
        "exec web -- "*) in_container "${@:4}" ;;
        "-n sealift-agents exec daemonset/sealift-host -- /sealift-host "*) sealift-host "${@:7}" ;;
        *"rollout restart daemonset/sealift-host")
            stop "$host_agent"
            start_host
            ;;
        "delete pod web") sealift-host detach --pod "$pod" ;;
        "create namespace "* | "label namespace "* | *"rollout status"* | "wait "*) ;;
        *)
            echo "kubectl: what is $*?" >&2
            return 9
            ;;
    esac
}
helm() {
    case "$*" in
        "install sealift-agents deploy/chart "*"--values node-values.yaml") test -e node-values.yaml ;;
        "uninstall sealift-agents "*) stop "$host_agent" ;;
        *) return 9 ;;
    esac
}
systemctl() {
    case "$*" in
        "stop sealift-guest") stop "$guest_agent" ;;
        "start sealift-guest") start_guest ;;
        *) return 9 ;;
    esac
}
start_guest
start_host
