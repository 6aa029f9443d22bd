#!/usr/bin/env bash
# Runs what `cargo xtask gpu-pack` packed, on a Linux machine with an NVIDIA GPU and Python (torch,
# transformers, peft), without Rust: bash gpu-pack/run.sh [PART...], parts: tests, demo, compare,
# where, task, sweep; all packed parts if none is named. Logs and JSON go to $OUT (default: gpu-pack/out);
# $COMPARE holds additional arguments of the comparison, and $WHERE the works whose kernels are timed.
set -uo pipefail
pack=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
out=${OUT:-$pack/out}
work=${TMPDIR:-/tmp}/vblora-gpu
mkdir -p "$out" "$work"

# Python can always unpack xz; the machine need not have it.
python3 -c "import sys, tarfile; tarfile.open(sys.argv[1]).extractall(sys.argv[2], filter='data')" \
    "$pack/pack.tar.xz" "$work" || exit 1

# CUDA's libraries: those of the toolkit, or else those in Python packages.
libraries=$(python3 - <<'PYTHON'
import glob, os, site
roots = site.getsitepackages() + [site.getusersitepackages()]
found = [d for root in roots for d in glob.glob(root + "/nvidia/*/lib")]
found += glob.glob("/usr/local/cuda/lib64")
print(":".join(d for d in found if glob.glob(os.path.join(d, "lib*.so*"))))
PYTHON
)
export LD_LIBRARY_PATH="$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
if [[ ! -d ${CUDA_PATH:-/usr/local/cuda} ]]; then
    # NVRTC needs CUDA's headers, which Python packages also contain.
    CUDA_PATH=$(python3 -c "import glob, site; print(next(iter(
        [p[:-len('/include/cuda_fp16.h')] for r in site.getsitepackages()
         for p in glob.glob(r + '/nvidia/*/include/cuda_fp16.h')]), ''))")
    export CUDA_PATH
fi
export VBLORA_FIXTURES="$work/fixtures"

# Later processes reuse kernels that an earlier one compiled.
cd "$work" || exit 1
printf '[compilation.cache]\nfile = "%s/kernels"\n' "$work" >cubecl.toml

: >"$out/summary.txt"
# step NAME COMMAND...: runs the command with its output in a log, and records its status.
step() {
    local name=$1 start=$SECONDS status
    shift
    "$@" >"$out/$name.log" 2>&1
    status=$?
    printf '%-28s %4d s  %s\n' "$name" $((SECONDS - start)) \
        "$([[ $status -eq 0 ]] && echo passed || echo "FAILED ($status)")" >>"$out/summary.txt"
    return "$status"
}

# The tests of a binary in four processes: most of the time goes into compiling kernels, which a process does one at a time.
in_parts() {
    local binary=$1 part job status=0 names jobs=()
    mapfile -t names < <("$binary" cuda --list | sed -n 's/: test$//p')
    [[ ${#names[@]} -gt 0 ]] || status=1
    for part in 0 1 2 3; do
        local mine=()
        for ((i = part; i < ${#names[@]}; i += 4)); do mine+=("${names[i]}"); done
        [[ ${#mine[@]} -eq 0 ]] && continue
        "$binary" --test-threads 4 --exact "${mine[@]}" >"$work/$(basename "$binary")-$part.txt" 2>&1 &
        jobs+=($!)
    done
    for job in "${jobs[@]}"; do wait "$job" || status=1; done
    cat "$work/$(basename "$binary")"-?.txt
    return "$status"
}

tests() {
    local binary
    for binary in tests/*; do
        step "test-$(basename "$binary")" in_parts "$binary" &
    done
    wait
    for binary in tests/*; do
        grep -h "^test result" "$out/test-$(basename "$binary").log"
        grep -h "^test .* FAILED$" "$out/test-$(basename "$binary").log"
    done
}

demo() {
    step demo ./roberta_glue --backend cuda --quiet --out "$work/demo" --overwrite
    cat "$out/demo.log"
    cp "$work/demo/results.json" "$out/demo.json"
}

compare() {
    # shellcheck disable=SC2086 # several arguments
    step compare ./xtask compare --backend cuda --python python3 --json "$out/compare.json" ${COMPARE:-}
    grep -v "^$" "$out/compare.log" | tail -n 60
}

# Kernels of training steps by name, ours and PyTorch's, as CUPTI sees them. $WHERE holds works, separated by commas.
where() {
    local include name works=${WHERE:-roberta-base/vblora-all/32x128}
    include=$(python3 -c "import glob, site; print(next(iter(
        [p for r in site.getsitepackages() for p in glob.glob(r + '/nvidia/*/include')
         if glob.glob(p + '/cupti.h')] + ['/usr/local/cuda/extras/CUPTI/include'])))")
    # shellcheck disable=SC2086 # several folders
    step trace-build cc -O2 -shared -fPIC -I "$include" -I "${CUDA_PATH:-/usr/local/cuda}/include" "$pack/trace.c" \
        -o "$work/trace.so" "$(find ${LD_LIBRARY_PATH//:/ } -name 'libcupti.so*' | sort | head -n 1)" || return
    for name in ${works//,/ }; do
        rm -f "$work"/trace.*[0-9]
        CUDA_INJECTION64_PATH=$work/trace.so TRACE=$work/trace ./xtask compare --backend cuda \
            --python python3 --only "$name" --beside graph --pairs 1 --repetitions 5 >"$out/where.log" 2>&1
        step "where-${name//\//-}" python3 "$pack/trace.py" 5 "$work"/trace.*[0-9]
        cat "$out/where-${name//\//-}.log"
    done
}

# MiniLM on MRPC, if it was packed.
task() {
    step task ./roberta_glue --backend cuda --quiet --model "$work/model" --data "$work/data" --task mrpc \
        --method vblora --method lora --targets all --out "$work/mrpc" --overwrite
    cat "$out/task.log"
    cp "$work/mrpc/results.json" "$out/task.json"
}

# Every method on the packed model on the GPU, and at the same time on the bundled model on the CPU. $MINILM and $PROOF hold additional
# arguments of the sweeps.
sweep() {
    # shellcheck disable=SC2086 # several arguments
    step proof ./xtask sweep proof --out "$work/proof" --devices flex ${PROOF:-} &
    # shellcheck disable=SC2086
    step minilm ./xtask sweep minilm --out "$work/minilm" --devices cuda:0 \
        --place "all-MiniLM-L6-v2=$work/model" --place "glue=$work/data" ${MINILM:-}
    wait
    tail -n 3 "$out/proof.log" "$out/minilm.log"
    tar --create --gzip --file "$out/sweeps.tar.gz" --directory "$work" \
        $(cd "$work" && ls -d {proof,minilm}/{results.*,sweeps,runs/*/selections})
}

nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader | tee "$out/device.txt"
parts=("$@")
if [[ ${#parts[@]} -eq 0 ]]; then
    parts=(tests demo compare where)
    [[ -d $work/model ]] && parts+=(task)
fi
for part in "${parts[@]}"; do "$part"; done
echo
cat "$out/summary.txt"
! grep -q FAILED "$out/summary.txt"
