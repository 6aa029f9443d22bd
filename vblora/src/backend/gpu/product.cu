// out = scale x w on tensor cores (compute capability 8.0 and later), for NVRTC; x is [rows, inner], w is [inner, columns]. Blocks in the
// grid's third dimension compute the product of one head of one item of a batch. The output is f32. It includes bias[columns] (one for each
// item of the batch) if HAS_BIAS is 1, narrow[rows, RANK] factor[RANK, columns] if RANK > 0, and added[rows, columns] if HAS_ADDED is 1.
//
// Defined before this text:
// - ELEMENT: 0 for f32, multiplied in TF32; 1 for bf16; 2 for f16
// - X_TRANSPOSED (f32 only), W_TRANSPOSED: 1 if the matrix lies in memory as [inner, rows] or [columns, inner]
// - RANK, HAS_BIAS, HAS_ADDED (for a batch of one)
//
// A block makes a tile of 128 x 128. Asynchronous copies (cp.async) of 128 bytes of each row of the operands run three stages ahead. Pieces
// of 16 bytes are swapped within a row, so that neither ldmatrix nor single loads have bank conflicts. Rows of matrices in memory must
// start at multiples of 16 bytes and be multiples of 16 bytes long.

typedef unsigned int u32;
typedef unsigned long long u64;

#define TILE 128
#define STAGES 3
#define WARPS_M 2
#if ELEMENT == 0
#define SIZE 4
#define STEP 8
#define WARPS_N 2
#else
#define SIZE 2
#define STEP 16
#define WARPS_N 4
#endif
#define THREADS (32 * WARPS_M * WARPS_N)
#define DEPTH (128 / SIZE)
// The products of 16 x STEP by STEP x 8 that make up a warp's part of the tile.
#define PARTS_M (TILE / WARPS_M / 16)
#define PARTS_N (TILE / WARPS_N / 8)
#define OPERAND_BYTES (TILE * 128)

// The distances in memory, in values, between a matrix's rows, between items of the batch and between heads.
struct Layout {
    u64 row, item, head;
};

struct Sizes {
    // `group` heads of x share one of w.
    u64 rows, inner, columns, heads, group;
    Layout x, w, out;
    u64 factor_row, factor_column;
    double scale;
};

// Copies 16 bytes into shared memory, or zeros if the source is outside.
__device__ __forceinline__ void copy(u32 to, const void *from, bool inside) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(inside ? 16 : 0));
}

__device__ __forceinline__ void load_four(u32 *values, u32 at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(values[0]), "=r"(values[1]), "=r"(values[2]), "=r"(values[3])
                 : "r"(at));
}

__device__ __forceinline__ void load_four_transposed(u32 *values, u32 at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(values[0]), "=r"(values[1]), "=r"(values[2]), "=r"(values[3])
                 : "r"(at));
}

__device__ __forceinline__ u32 load_one(u32 at) {
    u32 value;
    asm volatile("ld.shared.b32 %0, [%1];" : "=r"(value) : "r"(at));
    return value;
}

#if ELEMENT == 0
#define INSTRUCTION "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32"
#elif ELEMENT == 1
#define INSTRUCTION "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32"
#else
#define INSTRUCTION "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32"
#endif

__device__ __forceinline__ void multiply_add(float *sums, const u32 *a, const u32 *b) {
    asm volatile(INSTRUCTION " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Rounds to the nearest TF32 value, because the tensor cores cut off the bits below.
__device__ __forceinline__ u32 rounded(u32 value) {
#if ELEMENT == 0
    return value + 0x1000u;
#else
    return value;
#endif
}

extern "C" __global__ void __launch_bounds__(THREADS, 2)
product(const char *__restrict__ x, const char *__restrict__ w,
#if HAS_BIAS
        const float *__restrict__ bias,
#endif
#if RANK > 0
        const float *__restrict__ narrow, const float *__restrict__ factor,
#endif
#if HAS_ADDED
        const float *__restrict__ added,
#endif
        float *__restrict__ out, const __grid_constant__ Sizes sizes) {
    extern __shared__ __align__(128) char memory[];
    const u32 base = (u32)__cvta_generic_to_shared(memory);
    const u32 thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
    const u32 warp_row = warp % WARPS_M * (TILE / WARPS_M), warp_column = warp / WARPS_M * (TILE / WARPS_N);
    const u32 row0 = blockIdx.y * TILE, column0 = blockIdx.x * TILE;
    const u32 rows = sizes.rows, columns = sizes.columns, inner = sizes.inner;
    const u32 slices = (inner + DEPTH - 1) / DEPTH;
    const u64 item = blockIdx.z / sizes.heads, head = blockIdx.z % sizes.heads;
    x += (item * sizes.x.item + head * sizes.x.head) * SIZE;
    w += (item * sizes.w.item + head / sizes.group * sizes.w.head) * SIZE;

    // A slice of an operand whose rows in memory go along `inner`.
    auto fetch_along = [&](u32 to, const char *from, u64 stride, u32 first, u32 length, u32 slice) {
#pragma unroll
        for (u32 i = 0; i < OPERAND_BYTES / 16 / THREADS; i++) {
            const u32 piece = i * THREADS + thread, r = piece / 8, c = piece % 8;
            const u32 k = slice * DEPTH + c * (16 / SIZE);
            const bool inside = first + r < length && k < inner;
            copy(to + r * 128 + (c ^ (r & 7)) * 16, from + (inside ? ((first + r) * stride + k) * SIZE : 0), inside);
        }
    };
    // A slice of an operand whose rows in memory go across `inner`.
    auto fetch_across = [&](u32 to, const char *from, u64 stride, u32 first, u32 length, u32 slice) {
        const u32 pieces = TILE * SIZE / 16;
#pragma unroll
        for (u32 i = 0; i < OPERAND_BYTES / 16 / THREADS; i++) {
            const u32 piece = i * THREADS + thread, r = piece / pieces, c = piece % pieces;
            const u32 k = slice * DEPTH + r, n = first + c * (16 / SIZE);
            const bool inside = n < length && k < inner;
            const u32 swapped = c ^ (ELEMENT == 0 ? (r & 3) << 1 : r & 7);
            copy(to + r * TILE * SIZE + swapped * 16, from + (inside ? (k * stride + n) * SIZE : 0), inside);
        }
    };
    auto fetch = [&](u32 slice) {
        const u32 to = base + slice % STAGES * 2 * OPERAND_BYTES;
#if X_TRANSPOSED
        fetch_across(to, x, sizes.x.row, row0, rows, slice);
#else
        fetch_along(to, x, sizes.x.row, row0, rows, slice);
#endif
#if W_TRANSPOSED
        fetch_along(to + OPERAND_BYTES, w, sizes.w.row, column0, columns, slice);
#else
        fetch_across(to + OPERAND_BYTES, w, sizes.w.row, column0, columns, slice);
#endif
    };
    auto commit = [] { asm volatile("cp.async.commit_group;"); };

    float sums[PARTS_M][PARTS_N][4];
#pragma unroll
    for (u32 i = 0; i < PARTS_M; i++)
#pragma unroll
        for (u32 j = 0; j < PARTS_N; j++)
#pragma unroll
            for (u32 e = 0; e < 4; e++) sums[i][j][e] = 0.0f;

    // The operands of the tensor cores for one step, loaded one step ahead.
    u32 a[2][PARTS_M][4], b[2][PARTS_N][2];
    auto load = [&](u32 from, u32 step) {
        u32(*a_of)[4] = a[step % 2];
        u32(*b_of)[2] = b[step % 2];
        // Loads one f32 of a slice fetched across, because ldmatrix transposes values of 16 bits only.
        auto across = [&](u32 at, u32 r, u32 n) { return load_one(at + r * TILE * 4 + (n / 4 ^ (r & 3) << 1) * 16 + n % 4 * 4); };
#pragma unroll
        for (u32 i = 0; i < PARTS_M; i++) {
#if X_TRANSPOSED
#pragma unroll
            for (u32 e = 0; e < 4; e++)
                a_of[i][e] = across(from, step * 8 + e / 2 * 4 + lane % 4, warp_row + i * 16 + e % 2 * 8 + lane / 4);
#else
            const u32 r = warp_row + i * 16 + lane % 16, c = step * 2 + lane / 16;
            load_four(a_of[i], from + r * 128 + (c ^ (r & 7)) * 16);
#endif
        }
        const u32 w_from = from + OPERAND_BYTES;
#if !W_TRANSPOSED && ELEMENT == 0
#pragma unroll
        for (u32 j = 0; j < PARTS_N; j++)
#pragma unroll
            for (u32 half = 0; half < 2; half++)
                b_of[j][half] = across(w_from, step * 8 + half * 4 + lane % 4, warp_column + j * 8 + lane / 4);
#else
#pragma unroll
        for (u32 j = 0; j < PARTS_N; j += 2) {
            u32 four[4];
#if W_TRANSPOSED
            const u32 r = warp_column + j * 8 + lane / 16 * 8 + lane % 8, c = step * 2 + lane / 8 % 2;
            load_four(four, w_from + r * 128 + (c ^ (r & 7)) * 16);
#else
            const u32 r = step * 16 + lane % 16, c = (warp_column + j * 8) / 8 + lane / 16;
            load_four_transposed(four, w_from + r * TILE * 2 + (c ^ (r & 7)) * 16);
#endif
            b_of[j][0] = four[0];
            b_of[j][1] = four[1];
            b_of[j + 1][0] = four[2];
            b_of[j + 1][1] = four[3];
        }
#endif
#pragma unroll
        for (u32 i = 0; i < PARTS_M; i++)
#pragma unroll
            for (u32 e = 0; e < 4; e++) a_of[i][e] = rounded(a_of[i][e]);
#pragma unroll
        for (u32 j = 0; j < PARTS_N; j++)
#pragma unroll
            for (u32 e = 0; e < 2; e++) b_of[j][e] = rounded(b_of[j][e]);
    };

#pragma unroll
    for (u32 slice = 0; slice < STAGES - 1; slice++) {
        if (slice < slices) fetch(slice);
        commit();
    }
    for (u32 slice = 0; slice < slices; slice++) {
        asm volatile("cp.async.wait_group %0;" ::"n"(STAGES - 2));
        __syncthreads();
        if (slice + STAGES - 1 < slices) fetch(slice + STAGES - 1);
        commit();
        const u32 from = base + slice % STAGES * 2 * OPERAND_BYTES;
        load(from, 0);
#pragma unroll
        for (u32 step = 0; step < DEPTH / STEP; step++) {
            if (step + 1 < DEPTH / STEP) load(from, step + 1);
#pragma unroll
            for (u32 i = 0; i < PARTS_M; i++)
#pragma unroll
                for (u32 j = 0; j < PARTS_N; j++) multiply_add(sums[i][j], a[step % 2][i], b[step % 2][j]);
        }
    }

    // The place of this thread's sums: rows 8 apart, pairs of columns 8 apart.
    auto row_of = [&](u32 i, u32 half) { return row0 + warp_row + i * 16 + half * 8 + lane / 4; };
    auto column_of = [&](u32 j) { return column0 + warp_column + j * 8 + lane % 4 * 2; };
    const float scale = sizes.scale;
#pragma unroll
    for (u32 i = 0; i < PARTS_M; i++)
#pragma unroll
        for (u32 j = 0; j < PARTS_N; j++)
#pragma unroll
            for (u32 e = 0; e < 4; e++) sums[i][j][e] *= scale;
#if HAS_BIAS
    bias += item * columns;
#pragma unroll
    for (u32 j = 0; j < PARTS_N; j++)
#pragma unroll
        for (u32 e = 0; e < 4; e++) {
            const u32 c = column_of(j) + e % 2;
            const float of_column = c < columns ? bias[c] : 0.0f;
#pragma unroll
            for (u32 i = 0; i < PARTS_M; i++) sums[i][j][e] += of_column;
        }
#endif
#if RANK > 0
    for (u32 rho = 0; rho < RANK; rho++) {
        float of_row[PARTS_M][2];
#pragma unroll
        for (u32 i = 0; i < PARTS_M; i++)
#pragma unroll
            for (u32 half = 0; half < 2; half++) {
                const u32 r = row_of(i, half);
                of_row[i][half] = r < rows ? narrow[(u64)r * RANK + rho] : 0.0f;
            }
#pragma unroll
        for (u32 j = 0; j < PARTS_N; j++)
#pragma unroll
            for (u32 e = 0; e < 2; e++) {
                const u32 c = column_of(j) + e;
                const float of_column = c < columns ? factor[rho * sizes.factor_row + c * sizes.factor_column] : 0.0f;
#pragma unroll
                for (u32 i = 0; i < PARTS_M; i++)
#pragma unroll
                    for (u32 half = 0; half < 2; half++) {
                        float *sum = &sums[i][j][2 * half + e];
                        *sum = fmaf(of_row[i][half], of_column, *sum);
                    }
            }
    }
#endif

#pragma unroll
    for (u32 i = 0; i < PARTS_M; i++)
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            const u32 r = row_of(i, half);
            if (r >= rows) continue;
#pragma unroll
            for (u32 j = 0; j < PARTS_N; j++) {
                const u32 c = column_of(j);
                if (c >= columns) continue;
                const u64 at = item * sizes.out.item + head * sizes.out.head + r * sizes.out.row + c;
                float2 pair = make_float2(sums[i][j][2 * half], sums[i][j][2 * half + 1]);
#if HAS_ADDED
                const float2 term = *(const float2 *)(added + at);
                pair.x += term.x;
                pair.y += term.y;
#endif
                *(float2 *)(out + at) = pair;
            }
        }
}
