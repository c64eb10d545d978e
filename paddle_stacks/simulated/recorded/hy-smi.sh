#!/bin/sh
# hy-smi of a simulated host: prints what real ones were seen to print.
set -eu
texts=${0%/*}/../share/hy-smi

[ ! -e "$texts/hangs" ] || exec sleep 600
if [ -e "$texts/failure" ]; then
    cat "$texts/failure" >&2
    exit 1
fi

case " $* " in
    "  ") cat "$texts/table" ;;
    *" --json "*) cat "$texts/json" ;;
    " --showmeminfo vram ") cat "$texts/memory" ;;
    " --showdriverversion ") cat "$texts/driver" ;;
    " --showpids ") cat "$texts/pids" ;;
    *)
        echo "usage: hy-smi [--showmeminfo vram] [--showdriverversion] [--showpids] [--json]" >&2
        echo "hy-smi: error: unrecognized arguments: $*" >&2
        exit 2
        ;;
esac
