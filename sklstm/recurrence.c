/* One recurrent layer, forwards and backwards in time, in single precision: an LSTM, one
   with peepholes, or a GRU. And what stands around it: convolutions, normalised, before,
   pooling or the decoder of a forecast behind; the loss of its quantiles; whole networks
   of these; and a step of the optimiser.

   The gates of a step are a matrix product followed by a few functions of each element.
   Here the product of a tile of rows and units stays in registers until the functions
   have been applied, and all that is ever written is what the backward pass needs.

   A row of the batch is computed by the same operations in the same order wherever it
   stands and whatever its neighbours are. Rows are independent but for the gradients of
   the weights, which callers on several threads add up themselves.

   Units are padded to whole vectors of LANES floats, with weights of zero. Gates are
   stored (T, N, blocks, 4, LANES): all of a block of units together. There are four sums
   to a unit in every cell: input, forget, cell, output; or of a GRU the input's part of
   the new state, reset, update, and the state's part of the new state.

   The functions that take a cell (or a number of vectors) are inlined for each. */
#define _GNU_SOURCE /* syscall */
#include <math.h>
#include <stddef.h>
#include <string.h>

/* Of the two the lower or the higher; x where it is NaN. The numbers of two vectors in turn,
   from their first or their second half. And a product added to a sum where it is: of the
   forms of the instruction compilers also choose those that leave the sum in another
   register, and copy it back. */
#if defined(__AVX512F__)
#include <immintrin.h>
#define LANES 16
#if defined(__AMX_BF16__)
#include <sys/syscall.h>
#include <unistd.h>
#define TILES 1
#define ROWS 16
#else
#define ROWS 6
#endif
#define LOWER(limit, x) (vec) _mm512_min_ps((__m512)(limit), (__m512)(x))
#define HIGHER(limit, x) (vec) _mm512_max_ps((__m512)(limit), (__m512)(x))
#define TURNS(first, a, b)                                                                \
    (vec) _mm512_permutex2var_ps(                                                         \
        (__m512)(a),                                                                      \
        _mm512_setr_epi32(first, first + 16, first + 1, first + 17, first + 2, first + 18, \
                          first + 3, first + 19, first + 4, first + 20, first + 5,        \
                          first + 21, first + 6, first + 22, first + 7, first + 23),      \
        (__m512)(b))
#define FIRST_HALVES(a, b) TURNS(0, a, b)
#define SECOND_HALVES(a, b) TURNS(8, a, b)
#define MULTIPLY_ADD(name, sum, a, b) \
    __asm__(name " %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b))
#if defined(__AVX512BF16__)
#include <cpuid.h>
#define PAIRS 1
#define ADD_PRODUCT(sum, a, b) MULTIPLY_ADD("vdpbf16ps", sum, a, b)
#else
#define ADD_PRODUCT(sum, a, b) MULTIPLY_ADD("vfmadd231ps", sum, a, b)
#endif
#elif defined(__AVX2__)
#include <immintrin.h>
#define LANES 8
#define ROWS 3
#define LOWER(limit, x) (vec) _mm256_min_ps((__m256)(limit), (__m256)(x))
#define HIGHER(limit, x) (vec) _mm256_max_ps((__m256)(limit), (__m256)(x))
#define TURNS(half, a, b)                                                                 \
    (vec) _mm256_permute2f128_ps(_mm256_unpacklo_ps((__m256)(a), (__m256)(b)),            \
                                 _mm256_unpackhi_ps((__m256)(a), (__m256)(b)), half)
#define FIRST_HALVES(a, b) TURNS(0x20, a, b)
#define SECOND_HALVES(a, b) TURNS(0x31, a, b)
#else
#include <arm_neon.h>
#define LANES 4
#define ROWS 4
#define LOWER(limit, x) (vec) vminq_f32((float32x4_t)(limit), (float32x4_t)(x))
#define HIGHER(limit, x) (vec) vmaxq_f32((float32x4_t)(limit), (float32x4_t)(x))
#define FIRST_HALVES(a, b) (vec) vzip1q_f32((float32x4_t)(a), (float32x4_t)(b))
#define SECOND_HALVES(a, b) (vec) vzip2q_f32((float32x4_t)(a), (float32x4_t)(b))
#endif
#ifndef ADD_PRODUCT
#define ADD_PRODUCT(sum, a, b) (sum) += (a) * (b)
#endif
#ifndef PAIRS
#define PAIRS 0
#endif
#ifndef TILES
#define TILES 0
#endif
#define TALL (TILES ? ROWS : 2 * ROWS) /* rows of a tile of two vectors, or of one */
#define GATES 4
#define INLINE static inline __attribute__((always_inline))

typedef float vec __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef int ivec __attribute__((vector_size(LANES * 4), aligned(4), may_alias));

#define SPLAT(x) ((x) - (vec){0})

INLINE vec load(const float *p) { return *(const vec *)p; }
INLINE void store(float *p, vec x) { *(vec *)p = x; }

static ptrdiff_t least(ptrdiff_t a, ptrdiff_t b) { return a < b ? a : b; }
static ptrdiff_t most(ptrdiff_t a, ptrdiff_t b) { return a > b ? a : b; }

INLINE vec clamp(vec x, float limit) {
    return HIGHER(SPLAT(-limit), LOWER(SPLAT(limit), x));
}

/* Numbers too small to be normal, squares and products of weights that decay has driven to
   nothing, say, take a processor many times as long. They are zero in a function that
   begins with FLUSH, which leaves the mode of its caller as it was. */
#if defined(__aarch64__)
typedef unsigned long long Mode;
static Mode get_mode(void) {
    Mode mode;
    __asm__ volatile("mrs %0, fpcr" : "=r"(mode));
    return mode;
}
static void set_mode(Mode mode) { __asm__ volatile("msr fpcr, %0" : : "r"(mode) : "memory"); }
#define FLUSH_BITS (1ULL << 24)
#else
typedef unsigned Mode;
static Mode get_mode(void) { return _mm_getcsr(); }
static void set_mode(Mode mode) {
    __asm__ volatile("" : : : "memory");
    _mm_setcsr(mode);
    __asm__ volatile("" : : : "memory");
}
#define FLUSH_BITS 0x8040u
#endif
static Mode flush(void) {
    const Mode before = get_mode();
    set_mode(before | FLUSH_BITS);
    return before;
}
static void restore(const Mode *before) { set_mode(*before); }
#define FLUSH                                                                             \
    __attribute__((unused, cleanup(restore))) const Mode before_flush = flush();          \
    WITH_TILES

/* A processor with AMX has eight registers for tiles of 16 rows of 64 bytes, which a function
   that begins with FLUSH says it will use; unless it was called by one. To have them is asked
   of Linux, once in a process. Who is done says so too: what is in them need not be kept. */
#if TILES
static _Thread_local int depth;
static int lay_tiles(void) {
    static const struct {
        unsigned char palette, start, reserved[14];
        unsigned short bytes_of_row[16];
        unsigned char rows[16];
    } sizes = {1, 0, {0}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};
    if (!depth++) __asm__ volatile("ldtilecfg %0" : : "m"(sizes));
    return 0;
}
static void clear_tiles(const int *unused) {
    (void)unused;
    if (!--depth) __asm__ volatile("tilerelease" : : : "memory");
}
#define WITH_TILES __attribute__((unused, cleanup(clear_tiles))) const int tiles = lay_tiles();
#define TILE_LOAD(tile, from, row)                                                        \
    __asm__ volatile("tileloadd (%0, %1, 1), %%tmm" #tile : : "r"(from), "r"(row) : "memory")
#define TILE_STORE(tile, to, row)                                                         \
    __asm__ volatile("tilestored %%tmm" #tile ", (%0, %1, 1)" : : "r"(to), "r"(row) : "memory")
#define TILE_MULTIPLY_ADD(sum, a, b)                                                      \
    __asm__ volatile("tdpbf16ps %%tmm" #b ", %%tmm" #a ", %%tmm" #sum : : :)
#else
#define WITH_TILES
#endif

/* exp(x) of |x| up to 87: 2^n times a polynomial of the rest (Cephes). */
INLINE vec exp_(vec x) {
    const vec shift = SPLAT(12582912.0f); /* 1.5 * 2^23: rounds to integers */
    vec n = (x * 1.44269504088896341f + shift) - shift;
    vec r = x - n * 0.693359375f + n * 2.12194440e-4f;
    vec p = SPLAT(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    ivec exponent = (__builtin_convertvector(n, ivec) + 127) << 23;
    return p * (vec)exponent;
}

/* x / y: with PAIRS the reciprocal of 14 bits and a step of Newton's, which takes a third of
   the time and is exact but for the last bit or two. */
INLINE vec divide(vec x, vec y) {
#if PAIRS
    const vec r = (vec)_mm512_rcp14_ps((__m512)y);
    return x * (r * (2.0f - y * r));
#else
    return x / y;
#endif
}

INLINE vec sigmoid(vec x) { return divide(SPLAT(1.0f), 1.0f + exp_(-clamp(x, 87.0f))); }

/* log(1 + exp(x)) = max(x, 0) + log(1 + e), e = exp(-|x|); the logarithm is twice the
   inverse hyperbolic tangent of e / (2 + e), of at most a third, whose series is cut where
   a float ends. */
INLINE vec softplus(vec x) {
    vec e = exp_(-LOWER(SPLAT(87.0f), (vec)((ivec)x & 0x7fffffff)));
    vec z = e / (2.0f + e), y = z * z;
    vec p = SPLAT(2.0f / 13);
    p = p * y + 2.0f / 11;
    p = p * y + 2.0f / 9;
    p = p * y + 2.0f / 7;
    p = p * y + 2.0f / 5;
    p = p * y + 2.0f / 3;
    p = p * y + 2.0f;
    return HIGHER(SPLAT(0.0f), x) + z * p;
}

/* Negative becomes 0; NaN stays. */
INLINE vec rectify(vec x) { return HIGHER(SPLAT(0.0f), x); }

/* Rational approximation, accurate to a few units in the last place (Eigen). */
INLINE vec tanh_(vec x) {
    x = clamp(x, 7.90531110763549805f);
    vec y = x * x;
    vec p = SPLAT(-2.76076847742355e-16f);
    p = p * y + 2.00018790482477e-13f;
    p = p * y + -8.60467152213735e-11f;
    p = p * y + 5.12229709037114e-08f;
    p = p * y + 1.48572235717979e-05f;
    p = p * y + 6.37261928875436e-04f;
    p = p * y + 4.89352455891786e-03f;
    vec q = SPLAT(1.19825839466702e-06f);
    q = q * y + 1.18534705686654e-04f;
    q = q * y + 2.26843463243900e-03f;
    q = q * y + 4.89352518554385e-03f;
    return divide(x * p, q);
}

/* With PAIRS numbers are rounded to bfloat16 before they are multiplied, and two terms of a
   sum lie in a word, the first in its lower half: an instruction then multiplies and adds up
   twice as many. Sums, and all else, are of floats. Weights are paired where they are laid
   out, by `pair`; what they are multiplied by is where it is read, a tile at a time. */
#if PAIRS
typedef int word __attribute__((may_alias));
#define SPLAT_TERMS(p) (vec) _mm512_set1_epi32(*(const word *)(p))

/* The next numbers, at most LANES; zeros behind n. */
INLINE vec load_some(const float *p, ptrdiff_t n) {
    const unsigned mask = n < LANES ? (1u << most(n, 0)) - 1 : 0xffff;
    return (vec)_mm512_maskz_loadu_ps(mask, p);
}

/* Words of two rows, of the numbers in the same place. */
INLINE vec pair_up(vec first, vec second) {
    const __m512i in_turn = _mm512_setr_epi32(
        0x100000, 0x110001, 0x120002, 0x130003, 0x140004, 0x150005, 0x160006, 0x170007,
        0x180008, 0x190009, 0x1a000a, 0x1b000b, 0x1c000c, 0x1d000d, 0x1e000e, 0x1f000f);
    const __m512i halves = (__m512i)_mm512_cvtne2ps_pbh((__m512)second, (__m512)first);
    return (vec)_mm512_permutexvar_epi16(in_turn, halves);
}

/* to (n_rows / 2, to_row) = rows (n_rows, n_columns), row apart, two and two; they may lie
   in the same place. Without a second row, of zeros. Whole vectors are written. */
INLINE void pair_rows(const float *rows, ptrdiff_t row, ptrdiff_t n_rows, ptrdiff_t n_columns,
                      float *to, ptrdiff_t to_row) {
    for (ptrdiff_t n = 0; n < n_rows; n += 2, to += to_row)
        for (ptrdiff_t u = 0; u < n_columns; u += LANES) {
            const ptrdiff_t n_second = n + 1 < n_rows ? n_columns - u : 0;
            const float *at = rows + n * row + u;
            const vec second = load_some(n_second ? at + row : at, n_second);
            store(to + u, pair_up(load_some(at, n_columns - u), second));
        }
}

/* Words of n numbers next to each other. Whole vectors are written. */
INLINE void pair_terms(const float *from, ptrdiff_t n, float *to) {
    for (ptrdiff_t k = 0; k < n; k += 2 * LANES) {
        const vec first = load_some(from + k, n - k);
        const vec second = load_some(from + k + LANES, n - k - LANES);
        store(to + k / 2, (vec)_mm512_cvtne2ps_pbh((__m512)second, (__m512)first));
    }
}
#else
#define SPLAT_TERMS(p) SPLAT(*(p))
#endif

/* Pairs the terms of weights (n_terms, ld), which then take the first half of the place; what
   a tile may read beyond them is zero. */
static void pair(float *w, ptrdiff_t n_terms, ptrdiff_t ld) {
#if PAIRS
    pair_rows(w, ld, n_terms, ld, w, ld);
    if (TILES) memset(w + (n_terms + 1) / 2 * ld, 0, n_terms / 2 * ld * sizeof(float));
#else
    (void)w, (void)n_terms, (void)ld;
#endif
}

/* The sums of a tile of rows and of the vectors from first up to last: `start_sums` reads
   where they start, `multiply` adds

       a[r * row + k * step] * w[k * ld + v * LANES], added up over k,

   to that of row r and vector v, and `end_sums` puts them where they go, maybe rectified. With
   PAIRS all that is multiplied is words. The sums are in acc, which compilers keep in
   registers; with TILES in those, and acc is room for tiles of fewer rows. Then step is 1,
   there are ROWS rows in a, whatever is in those beyond `rows`, zeros behind n_terms up to a
   whole tile, and of w n_there rows may be read, if they are multiplied by zero (which of
   infinity is NaN). */
#if TILES
#define EACH(action, ...)                                                                 \
    if (first <= 0) { action(0, 5, __VA_ARGS__); }                                        \
    if (first <= 1 && 1 < last) { action(1, 6, __VA_ARGS__); }                            \
    if (first <= 2 && 2 < last) { action(2, 7, __VA_ARGS__); }                            \
    if (3 < last) { action(3, 5, __VA_ARGS__); }
#define LOAD_SUMS(v, _, from, row) TILE_LOAD(v, (from) + v * LANES, row)
#define STORE_SUMS(v, _, to, row) TILE_STORE(v, (to) + v * LANES, row)
#define ADD_PRODUCTS(v, b, w, row)                                                        \
    TILE_LOAD(b, (w) + v * LANES, row);                                                   \
    TILE_MULTIPLY_ADD(v, 4, b)

INLINE void start_sums(int rows, int first, int last, vec (*acc)[GATES], const float *from,
                       ptrdiff_t from_row) {
    if (rows < ROWS && from_row) {
        for (int r = 0; r < rows; r++)
            for (int v = first; v < last; v++)
                acc[r][v] = load(from + r * from_row + v * LANES);
        from = (const float *)acc, from_row = GATES * LANES;
    }
    const ptrdiff_t row = from_row * sizeof(float);
    EACH(LOAD_SUMS, from, row)
}

INLINE void end_sums(int rows, int first, int last, vec (*acc)[GATES], float *to,
                     ptrdiff_t to_row, int relu) {
    const int is_ready = rows == ROWS && !relu;
    float *out = is_ready ? to : (float *)acc;
    const ptrdiff_t row = (is_ready ? to_row : GATES * LANES) * sizeof(float);
    EACH(STORE_SUMS, out, row)
    if (!is_ready)
        for (int r = 0; r < rows; r++)
            for (int v = first; v < last; v++)
                store(to + r * to_row + v * LANES, relu ? rectify(acc[r][v]) : acc[r][v]);
}

INLINE void multiply(int rows, int first, int last, vec (*acc)[GATES], const float *a,
                     ptrdiff_t row, ptrdiff_t step, ptrdiff_t n_terms, const float *w,
                     ptrdiff_t ld, ptrdiff_t n_there) {
    (void)rows, (void)acc, (void)step;
    for (ptrdiff_t k = 0; k < n_terms; k += ROWS) {
        float some[ROWS][GATES * LANES] __attribute__((aligned(64)));
        const float *b = w + k * ld;
        ptrdiff_t b_row = ld * sizeof(float);
        TILE_LOAD(4, a + k, row * sizeof(float));
        if (k + ROWS > n_there) {
            memset(some, 0, sizeof(some));
            for (ptrdiff_t i = 0; i < n_terms - k; i++)
                for (int v = first; v < last; v++)
                    store(some[i] + v * LANES, load(b + i * ld + v * LANES));
            b = some[0], b_row = sizeof(*some);
        }
        EACH(ADD_PRODUCTS, b, b_row)
    }
}
#else
INLINE void start_sums(int rows, int first, int last, vec (*acc)[GATES], const float *from,
                       ptrdiff_t from_row) {
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int v = first; v < last; v++)
            acc[r][v] = load(from + r * from_row + v * LANES);
}

INLINE void end_sums(int rows, int first, int last, vec (*acc)[GATES], float *to,
                     ptrdiff_t to_row, int relu) {
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int v = first; v < last; v++)
            store(to + r * to_row + v * LANES, relu ? rectify(acc[r][v]) : acc[r][v]);
}

INLINE void multiply(int rows, int first, int last, vec (*acc)[GATES], const float *a,
                     ptrdiff_t row, ptrdiff_t step, ptrdiff_t n_terms, const float *w,
                     ptrdiff_t ld, ptrdiff_t n_there) {
    (void)n_there;
    for (ptrdiff_t k = 0; k < n_terms; k++) {
        vec b[GATES];
#pragma GCC unroll 4
        for (int v = first; v < last; v++) b[v] = load(w + k * ld + v * LANES);
#pragma GCC unroll 16
        for (int r = 0; r < rows; r++) {
            vec x = SPLAT_TERMS(a + r * row + k * step);
#pragma GCC unroll 4
            for (int v = first; v < last; v++) ADD_PRODUCT(acc[r][v], x, b[v]);
        }
    }
}
#endif

/* `multiply` of numbers, a[r * row + k], and weights that have been laid out. */
INLINE void multiply_terms(int rows, int first, int last, vec (*acc)[GATES], const float *a,
                           ptrdiff_t row, ptrdiff_t n_terms, const float *w, ptrdiff_t ld,
                           ptrdiff_t n_there) {
#if PAIRS
    /* Of tiles the next may be paired while those before are waited for. */
    enum { AT_ONCE = TILES ? 2 * LANES : 256 };
    float words[TALL][AT_ONCE / 2] __attribute__((aligned(64)));
    for (ptrdiff_t k = 0; k < n_terms; k += AT_ONCE) {
        const ptrdiff_t n = least(n_terms - k, AT_ONCE);
        for (int r = 0; r < rows; r++) pair_terms(a + r * row + k, n, words[r]);
        multiply(rows, first, last, acc, words[0], AT_ONCE / 2, 1, (n + 1) / 2,
                 w + k / 2 * ld, ld, n_there - k / 2);
    }
#else
    multiply(rows, first, last, acc, a, row, 1, n_terms, w, ld, n_there);
#endif
}

enum { LSTM, PEEPHOLE, GRU };

/* Which of the four sums the gates of a weight go to, in the order it has them. */
typedef struct {
    int n, sum[GATES];
} Gates;
static const Gates FOUR = {4, {0, 1, 2, 3}}, PEEPHOLES = {3, {0, 1, 3}};
static const Gates GRU_INPUT = {3, {1, 2, 0}}, GRU_STATE = {3, {1, 2, 3}};
INLINE Gates of_input(ptrdiff_t cell) { return cell == GRU ? GRU_INPUT : FOUR; }
INLINE Gates of_state(ptrdiff_t cell) { return cell == GRU ? GRU_STATE : FOUR; }
/* Of a GRU the input and the state each enter but three sums. */
#define INPUT_SUMS(cell) 0, (cell) == GRU ? 3 : GATES
#define STATE_SUMS(cell) (cell) == GRU ? 1 : 0, GATES

/* Sizes and strides shared by both passes; rows [begin, end) of a batch of n_rows. */
typedef struct {
    ptrdiff_t cell, n_steps, n_rows, begin, end, n_inputs, hidden_size;
    ptrdiff_t x_step, x_row;  /* strides of x, in floats */
    const long long *lengths; /* of the rows, descending; or NULL: all are n_steps long */
    ptrdiff_t is_fresh;       /* whether to start at zero; else at what is in h and c */
} Shape;

/* The end of the rows that have a step t; those behind are left alone. */
static ptrdiff_t end_at(const Shape *s, ptrdiff_t t) {
    ptrdiff_t n = s->end;
    if (s->lengths)
        while (n > s->begin && s->lengths[n - 1] <= t) n--;
    return n;
}

ptrdiff_t sklstm_lanes(void) { return LANES; }

/* Goes up when a function's arguments change; kernels.py uses no library of another. */
int sklstm_version(void) { return 17; }

int sklstm_pairs(void) { return PAIRS; }

/* Whether this processor has what this was compiled for, beyond what torch calls AVX512, and
   lets us have it. Of pairs of terms it has something faster where it has tiles: such
   processors take as long for two products in a word as for each by itself. */
int sklstm_suits(void) {
#if PAIRS
    unsigned a, b, c, d;
    const int has_tiles = __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d >> 22 & 5) == 5;
    if (!__builtin_cpu_supports("avx512bf16") || !__builtin_cpu_supports("avx512bw")) return 0;
#if TILES
    enum { REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 };
    return has_tiles && !syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA);
#else
    return !has_tiles;
#endif
#else
    return 1;
#endif
}

/* A length that leads beyond what there is would be read there. */
static ptrdiff_t within(long long length, ptrdiff_t n_steps) {
    return length < 0 ? 0 : least(length, n_steps);
}

static ptrdiff_t padded(ptrdiff_t n) { return (n + LANES - 1) / LANES * LANES; }

/* Terms of the sums: a bias, the inputs, the state and, with peepholes, the cell. */
static ptrdiff_t terms(const Shape *s) {
    return 1 + s->n_inputs + s->hidden_size + (s->cell == PEEPHOLE);
}

/* LANES rows of LANES numbers, transposed: each round moves the highest bit of the place of a
   number, counted through all rows, to the lowest, until rows and columns have changed
   places. */
INLINE void transpose(vec *a) {
#pragma GCC unroll 4
    for (int round = 1; round < LANES; round *= 2) {
        vec b[LANES];
#pragma GCC unroll 8
        for (int i = 0; i < LANES / 2; i++) {
            b[2 * i] = FIRST_HALVES(a[i], a[i + LANES / 2]);
            b[2 * i + 1] = SECOND_HALVES(a[i], a[i + LANES / 2]);
        }
#pragma GCC unroll 16
        for (int i = 0; i < LANES; i++) a[i] = b[i];
    }
}

#if PAIRS
/* to (n_columns, n_rows / 2) = rows (n_rows, n_columns), row apart, two and two and
   transposed. Whole tiles are written, with zeros where there are no numbers. */
INLINE void pair_columns(const float *rows, ptrdiff_t row, ptrdiff_t n_rows,
                         ptrdiff_t n_columns, float *to, ptrdiff_t to_row) {
    for (ptrdiff_t n = 0; n < n_rows; n += 2 * LANES)
        for (ptrdiff_t k = 0; k < n_columns; k += LANES) {
            vec words[LANES];
#pragma GCC unroll 16
            for (int i = 0; i < LANES; i++) {
                const ptrdiff_t n_left = n_rows - n - 2 * i;
                const float *at = rows + (n + 2 * i) * row + k;
                const vec first = load_some(at, n_left > 0 ? n_columns - k : 0);
                words[i] = pair_up(first, load_some(at + row, n_left > 1 ? n_columns - k : 0));
            }
            transpose(words);
#pragma GCC unroll 16
            for (int i = 0; i < LANES; i++) store(to + (k + i) * to_row + n / 2, words[i]);
        }
}
#endif

/* to (n_columns, n_rows) = from (n_rows, n_columns) transposed, or added to it, both with
   strides. */
INLINE void put_transposed(const float *from, ptrdiff_t from_row, ptrdiff_t from_column,
                           ptrdiff_t n_rows, ptrdiff_t n_columns, float *to,
                           ptrdiff_t to_row, ptrdiff_t to_column, int is_added) {
    const int is_dense = from_column == 1 && to_column == 1;
    for (ptrdiff_t i = 0; i < n_rows; i += LANES) {
        const ptrdiff_t end = least(n_rows, i + LANES);
        ptrdiff_t k = 0;
        for (; is_dense && end == i + LANES && k + LANES <= n_columns; k += LANES) {
            vec a[LANES];
#pragma GCC unroll 16
            for (int r = 0; r < LANES; r++) a[r] = load(from + (i + r) * from_row + k);
            transpose(a);
#pragma GCC unroll 16
            for (int c = 0; c < LANES; c++) {
                float *place = to + (k + c) * to_row + i;
                if (is_added) a[c] += load(place);
                store(place, a[c]);
            }
        }
        for (; k < n_columns; k++)
            for (ptrdiff_t r = i; r < end; r++) {
                const float x = from[r * from_row + k * from_column];
                float *place = to + k * to_row + r * to_column;
                *place = is_added ? *place + x : x;
            }
    }
}

/* Puts weights (gates H, K) into w (blocks, n_terms, 4, LANES), as terms first and on. */
static void pack(const float *weight, Gates gates, ptrdiff_t n_columns, ptrdiff_t hidden_size,
                 float *w, ptrdiff_t first, ptrdiff_t n_terms) {
    for (int g = 0; g < gates.n; g++)
        for (ptrdiff_t u = 0; u < hidden_size; u += LANES)
            put_transposed(weight + (g * hidden_size + u) * n_columns, n_columns, 1,
                           least(hidden_size - u, LANES), n_columns,
                           w + ((u / LANES * n_terms + first) * GATES + gates.sum[g]) * LANES,
                           GATES * LANES, 1, 0);
}

/* Adds biases (gates H,) to the first terms of w. */
static void pack_bias(const float *bias, Gates gates, ptrdiff_t hidden_size, float *w,
                      ptrdiff_t n_terms) {
    for (int g = 0; g < gates.n; g++)
        for (ptrdiff_t u = 0; u < hidden_size; u++)
            w[(u / LANES * n_terms * GATES + gates.sum[g]) * LANES + u % LANES] +=
                bias[g * hidden_size + u];
}

/* Adds gradients d_w (K, 4 Hp) to those of a weight (gates H, K). */
static void unpack(const float *d_w, Gates gates, ptrdiff_t n_columns, ptrdiff_t hidden_size,
                   float *d_weight) {
    const ptrdiff_t all = GATES * padded(hidden_size);
    for (int g = 0; g < gates.n; g++)
        for (ptrdiff_t u = 0; u < hidden_size; u += LANES) {
            const ptrdiff_t n = least(hidden_size - u, LANES);
            const float *from = d_w + (u / LANES * GATES + gates.sum[g]) * LANES;
            float *to = d_weight + (g * hidden_size + u) * n_columns;
            put_transposed(from, all, 1, n_columns, n, to, n_columns, 1, 1);
        }
}

/* The functions of a row and block of units: its new state, from the sums. w: the peepholes;
   gates: what is kept, or NULL. */
INLINE void activate(int cell, vec *sum, const float *w, const float *h, const float *c,
                     float *h_next, float *c_next, float *gates) {
    vec kept[GATES];
    if (cell == GRU) {
        vec reset = sigmoid(sum[1]), z = sigmoid(sum[2]), n_h = sum[3];
        vec n = tanh_(sum[0] + reset * n_h);
        store(h_next, n + z * (load(h) - n));
        kept[0] = n, kept[1] = reset, kept[2] = z, kept[3] = n_h;
    } else {
        vec before = load(c);
        if (cell == PEEPHOLE) {
            sum[0] += load(w) * before;
            sum[1] += load(w + LANES) * before;
        }
        vec i = sigmoid(sum[0]), f = sigmoid(sum[1]), g = tanh_(sum[2]);
        vec now = f * before + i * g;
        if (cell == PEEPHOLE) sum[3] += load(w + 3 * LANES) * now;
        vec o = sigmoid(sum[3]);
        store(c_next, now);
        store(h_next, o * tanh_(now));
        kept[0] = i, kept[1] = f, kept[2] = g, kept[3] = o;
    }
    if (gates)
#pragma GCC unroll 4
        for (int g = 0; g < GATES; g++) store(gates + g * LANES, kept[g]);
}

/* Where a row is written to is fetched ahead: it is not in the cache. */
INLINE void fetch(const float *gates, const float *c, const float *h, ptrdiff_t width,
                  ptrdiff_t u, ptrdiff_t r) {
    for (int g = 0; gates && g < GATES; g++)
        __builtin_prefetch(gates + r * width * GATES + g * LANES, 1);
    __builtin_prefetch(c + r * width + u, 1);
    __builtin_prefetch(h + r * width + u, 1);
}

#if TILES
/* All blocks of units of some rows, whose terms are paired once if there is room for them. */
INLINE void forward_rows(int cell, ptrdiff_t rows, const Shape *s, const float *w,
                         const float *x, const float *h, const float *c, float *h_next,
                         float *c_next, float *gates) {
    enum { MOST = 256 };
    const ptrdiff_t I = s->n_inputs, H = s->hidden_size, width = padded(H);
    const ptrdiff_t panel = GATES * LANES;
    float of_x[ROWS][MOST / 2] __attribute__((aligned(64)));
    float of_h[ROWS][MOST / 2] __attribute__((aligned(64)));
    const int fit = I <= MOST && H <= MOST;
    for (ptrdiff_t r = 0; fit && r < rows; r++) {
        pair_terms(x + r * s->x_row, I, of_x[r]);
        pair_terms(h + r * width, H, of_h[r]);
    }
    for (ptrdiff_t u = 0; u < width; u += LANES) {
        const float *of_block = w + u * terms(s) * GATES, *w_x = of_block + panel;
        const float *w_h = w_x + I * panel;
        vec sum[ROWS][GATES] __attribute__((aligned(64)));
        start_sums(ROWS, 0, GATES, sum, of_block, 0);
        if (fit) {
            multiply(rows, INPUT_SUMS(cell), sum, of_x[0], MOST / 2, 1, (I + 1) / 2, w_x,
                     panel, I + H);
            multiply(rows, STATE_SUMS(cell), sum, of_h[0], MOST / 2, 1, (H + 1) / 2, w_h,
                     panel, H);
        } else {
            multiply_terms(rows, INPUT_SUMS(cell), sum, x, s->x_row, I, w_x, panel, I + H);
            multiply_terms(rows, STATE_SUMS(cell), sum, h, width, H, w_h, panel, H);
        }
        end_sums(ROWS, 0, GATES, sum, (float *)sum, panel, 0);
        for (ptrdiff_t r = 0; r < rows; r++) {
            const ptrdiff_t at = r * width + u;
            float *g = gates ? gates + at * GATES : NULL;
            fetch(gates ? gates + u * GATES : NULL, c_next, h_next, width, u, r + ROWS);
            activate(cell, sum[r], w_h + H * panel, h + at, c + at, h_next + at, c_next + at,
                     g);
        }
    }
}

enum { ROOM = 0 };

INLINE void forward(int cell, const Shape *s, const float *x, const float *w, float *room,
                    float *h, float *c, float *gates) {
    (void)room;
    const ptrdiff_t width = padded(s->hidden_size), batch = s->n_rows * width;
    const ptrdiff_t c_step = gates ? batch : 0;
    for (ptrdiff_t t = 0; t < s->n_steps; t++)
        for (ptrdiff_t n = s->begin, end = end_at(s, t); n < end; n += ROWS) {
            const ptrdiff_t at = t * batch + n * width, c_at = t * c_step + n * width;
            forward_rows(cell, least(end - n, ROWS), s, w, x + t * s->x_step + n * s->x_row,
                         h + at, c + c_at, h + at + batch, c + c_at + c_step,
                         gates ? gates + at * GATES : NULL);
        }
}
#else
/* What the sums of some rows and a block of units are made of: where row r of them starts
   (start + r * start_row), the inputs, the state, and the weights of these. */
typedef struct {
    const float *start, *x, *h, *w;
    ptrdiff_t start_row, x_row, h_row, n_inputs, n_states;
} Sums;

/* out (rows, 4, LANES), rows out_row apart. */
INLINE void sum_up(int cell, int rows, const Sums *s, float *out, ptrdiff_t out_row) {
    vec acc[ROWS][GATES] __attribute__((aligned(LANES * 4)));
    const ptrdiff_t panel = GATES * LANES;
    start_sums(rows, 0, GATES, acc, s->start, s->start_row);
    multiply_terms(rows, INPUT_SUMS(cell), acc, s->x, s->x_row, s->n_inputs, s->w, panel,
                   s->n_inputs);
    multiply_terms(rows, STATE_SUMS(cell), acc, s->h, s->h_row, s->n_states,
                   s->w + s->n_inputs * panel, panel, s->n_states);
    end_sums(rows, 0, GATES, acc, out, out_row, 0);
}

/* Functions of their own: with more around them compilers keep the sums in memory instead of
   registers, and a step takes up to half as long again. */
#define OF_ROWS(N)                                                                        \
    static __attribute__((noinline)) void sum_##N(const Sums *s, float *out,              \
                                                  ptrdiff_t out_row) {                    \
        sum_up(LSTM, N, s, out, out_row);                                                 \
    }                                                                                     \
    static __attribute__((noinline)) void gru_sum_##N(const Sums *s, float *out,          \
                                                      ptrdiff_t out_row) {                \
        sum_up(GRU, N, s, out, out_row);                                                  \
    }
OF_ROWS(1)
OF_ROWS(2)
OF_ROWS(3)
#if ROWS > 3
OF_ROWS(4)
#endif
#if ROWS > 4
OF_ROWS(5)
OF_ROWS(6)
#endif
static void (*const SUM[2][ROWS])(const Sums *, float *, ptrdiff_t) = {
#if ROWS == 3
    {sum_1, sum_2, sum_3}, {gru_sum_1, gru_sum_2, gru_sum_3},
#elif ROWS == 4
    {sum_1, sum_2, sum_3, sum_4}, {gru_sum_1, gru_sum_2, gru_sum_3, gru_sum_4},
#else
    {sum_1, sum_2, sum_3, sum_4, sum_5, sum_6},
    {gru_sum_1, gru_sum_2, gru_sum_3, gru_sum_4, gru_sum_5, gru_sum_6},
#endif
};
/* Of a block of steps beforehand, from `first` up to `last`: what few rows would wait for at
   each step, the weights, is read once for several steps. The order of the sums is the
   same. sums: of the first step. */
INLINE void inputs_first(int cell, const Shape *s, const float *x, const float *w,
                         ptrdiff_t first, ptrdiff_t last, float *sums, ptrdiff_t step) {
    const ptrdiff_t width = padded(s->hidden_size);
    for (ptrdiff_t u = 0; u < width; u += LANES) {
        const float *panel = w + u * terms(s) * GATES;
        for (ptrdiff_t n = s->begin; n < s->end; n++) {
            const ptrdiff_t end = s->lengths ? least(s->lengths[n], last) : last;
            const float *x_n = x + n * s->x_row + first * s->x_step;
            float *to = sums + ((n - s->begin) * width + u) * GATES;
            for (ptrdiff_t t = 0; t < end - first;) {
                const ptrdiff_t n_steps = least(end - first - t, ROWS);
                const Sums of = {panel, x_n + t * s->x_step, NULL, panel + GATES * LANES,
                                 0, s->x_step, 0, s->n_inputs, 0};
                SUM[cell == GRU][n_steps - 1](&of, to + t * step, step);
                t += n_steps;
            }
        }
    }
}

/* sums: of the inputs, or NULL. */
INLINE void forward_tile(int cell, ptrdiff_t rows, const Shape *s, const float *w,
                         const float *x, const float *sums, const float *h, const float *c,
                         float *h_next, float *c_next, float *gates, ptrdiff_t width,
                         ptrdiff_t u) {
    const ptrdiff_t panel = GATES * LANES, of_inputs = s->n_inputs * panel;
    vec sum[ROWS][GATES] __attribute__((aligned(LANES * 4)));
    const Sums of = {sums ? sums : w,
                     x,
                     h,
                     w + panel + (sums ? of_inputs : 0),
                     sums ? width * GATES : 0,
                     s->x_row,
                     width,
                     sums ? 0 : s->n_inputs,
                     s->hidden_size};
    for (ptrdiff_t r = 0; r < rows; r++) fetch(gates, c_next, h_next, width, u, r);
    SUM[cell == GRU][rows - 1](&of, (float *)sum, panel);
    w += panel + of_inputs + s->hidden_size * panel; /* the peepholes */
    for (ptrdiff_t r = 0; r < rows; r++) {
        const ptrdiff_t at = r * width + u;
        activate(cell, sum[r], w, h + at, c + at, h_next + at, c_next + at,
                 gates ? gates + r * width * GATES : NULL);
    }
}

/* acc[b][v] += sum over k of a[k] * w[b * block + k * GATES * LANES + v * LANES]. */
INLINE void multiply_two(int first, int last, vec (*acc)[GATES], const float *a,
                         ptrdiff_t n_terms, const float *w, ptrdiff_t block) {
    for (ptrdiff_t k = 0; k < n_terms; k++) {
        vec x = SPLAT(a[k]);
#pragma GCC unroll 2
        for (int b = 0; b < 2; b++)
#pragma GCC unroll 4
            for (int v = first; v < last; v++)
                acc[b][v] += x * load(w + b * block + (k * GATES + v) * LANES);
    }
}

/* The same of two blocks of a single row, each of whose sums would wait for itself. */
INLINE void forward_two(int cell, const Shape *s, const float *w, const float *x,
                        const float *sums, const float *h, const float *c, float *h_next,
                        float *c_next, float *gates, ptrdiff_t u) {
    vec acc[2][GATES];
    const ptrdiff_t panel = GATES * LANES, block = terms(s) * panel;
#pragma GCC unroll 2
    for (int b = 0; b < 2; b++)
#pragma GCC unroll 4
        for (int g = 0; g < GATES; g++)
            acc[b][g] = load(sums ? sums + b * panel + g * LANES : w + b * block + g * LANES);
    if (!sums) multiply_two(INPUT_SUMS(cell), acc, x, s->n_inputs, w + panel, block);
    w += (1 + s->n_inputs) * panel;
    multiply_two(STATE_SUMS(cell), acc, h, s->hidden_size, w, block);
    w += s->hidden_size * panel; /* the peepholes */
#pragma GCC unroll 2
    for (int b = 0; b < 2; b++) {
        const ptrdiff_t at = u + b * LANES;
        activate(cell, acc[b], w + b * block, h + at, c + at, h_next + at, c_next + at,
                 gates ? gates + b * panel : NULL);
    }
}

/* Steps whose inputs are summed up beforehand, and numbers that this takes, in 4 Hp. */
#define BLOCK (4 * ROWS)
#define ROOM (BLOCK * (ROWS - 1))

INLINE void forward(int cell, const Shape *s, const float *x, const float *w, float *room,
                    float *h, float *c, float *gates) {
    const ptrdiff_t width = padded(s->hidden_size), batch = s->n_rows * width;
    const ptrdiff_t n_terms = terms(s), step = (s->end - s->begin) * width * GATES;
    const int is_few = s->end - s->begin < ROWS && s->n_steps > 1 && s->n_inputs >= LANES;
    for (ptrdiff_t t = 0; t < s->n_steps; t++) {
        const ptrdiff_t c_step = gates ? batch : 0, end = end_at(s, t);
        if (is_few && t % BLOCK == 0)
            inputs_first(cell, s, x, w, t, least(t + BLOCK, s->n_steps), room, step);
        const int is_single = !PAIRS && s->end - s->begin == 1 && width % (2 * LANES) == 0;
        const ptrdiff_t at_once = is_single ? 2 : 1;
        for (ptrdiff_t i = 0; i < width; i += at_once * LANES) {
            /* To and fro: what was read last may still be in the cache. */
            const ptrdiff_t u = t % 2 ? width - at_once * LANES - i : i;
            const float *panel = w + u * n_terms * GATES;
            for (ptrdiff_t n = s->begin; n < end;) {
                const float *x_n = x + t * s->x_step + n * s->x_row;
                const float *h_n = h + t * batch + n * width;
                const float *c_n = c + t * c_step + n * width;
                float *h_next = h + (t + 1) * batch + n * width;
                float *c_next = c + (t + 1) * c_step + n * width;
                float *g = gates ? gates + (t * batch + n * width + u) * GATES : NULL;
                const float *sums = is_few ? room + t % BLOCK * step + u * GATES : NULL;
                if (at_once == 2) {
                    forward_two(cell, s, panel, x_n, sums, h_n, c_n, h_next, c_next, g, u);
                    break;
                }
                /* As many as there are: mostly it is the weights that are waited for. */
                const ptrdiff_t rows = least(end - n, ROWS);
                forward_tile(cell, rows, s, panel, x_n, sums, h_n, c_n, h_next, c_next, g,
                             width, u);
                n += rows;
            }
        }
    }
}
#endif

/* Room, in 4 Hp numbers, where few rows take more than a step. */
ptrdiff_t sklstm_room(ptrdiff_t n_rows) { return n_rows < ROWS ? ROOM : 0; }

/* h: (T + 1, N, Hp), c: (T + 1, N, Hp) or, without gates, (N, Hp); the first of each is the
   state to start from, set here if it is zero. A GRU has no c. gates: (T, N, 4 Hp) or NULL.
   w: terms * 4 Hp floats, into which the weights are packed; with w_ih NULL they have been
   before. room: sklstm_room, none for a single step. */
void sklstm_forward(const Shape *s, const float *x, const float *w_ih, const float *w_hh,
                    const float *b_ih, const float *b_hh, const float *peepholes, float *w,
                    float *room, float *h, float *c, float *gates) {
    FLUSH
    const ptrdiff_t H = s->hidden_size, I = s->n_inputs, n_terms = terms(s);
    if (w_ih) {
        const ptrdiff_t panel = n_terms * GATES * LANES;
        for (ptrdiff_t u = 0; u < H; u += LANES) /* all of a panel that units do not fill */
            memset(w + u / LANES * panel, 0,
                   (TILES || H - u < LANES ? panel : GATES * LANES) * sizeof(float));
        pack_bias(b_ih, of_input(s->cell), H, w, n_terms);
        pack_bias(b_hh, of_state(s->cell), H, w, n_terms);
        pack(w_ih, of_input(s->cell), I, H, w, 1, n_terms);
        pack(w_hh, of_state(s->cell), H, H, w, 1 + I, n_terms);
        if (peepholes) pack(peepholes, PEEPHOLES, 1, H, w, 1 + I + H, n_terms);
        for (ptrdiff_t u = 0; u < H; u += LANES) {
            float *of_block = w + u / LANES * panel + GATES * LANES; /* behind the bias */
            pair(of_block, I, GATES * LANES);
            pair(of_block + I * GATES * LANES, H, GATES * LANES);
        }
    }
    if (s->cell == GRU) c = h; /* it has no other state; neither read nor written */
    if (s->is_fresh) {
        const ptrdiff_t size = (s->end - s->begin) * padded(H) * sizeof(float);
        memset(h + s->begin * padded(H), 0, size);
        memset(c + s->begin * padded(H), 0, size);
    }
    if (s->cell == LSTM) forward(LSTM, s, x, w, room, h, c, gates);
    if (s->cell == PEEPHOLE) forward(PEEPHOLE, s, x, w, room, h, c, gates);
    if (s->cell == GRU) forward(GRU, s, x, w, room, h, c, gates);
}

/* out = a (rows, n_terms) @ w + bias, w laid out, for a panel of a few vectors; bias may be
   NULL. */
INLINE void product_tile(int rows, int vectors, const float *a, ptrdiff_t a_row,
                         ptrdiff_t n_terms, const float *w, ptrdiff_t ld, const float *bias,
                         int relu, float *out) {
    static const float zeros[GATES * LANES];
    vec acc[TALL][GATES] __attribute__((aligned(LANES * 4)));
    start_sums(rows, 0, vectors, acc, bias ? bias : zeros, 0);
    multiply_terms(rows, 0, vectors, acc, a, a_row, n_terms, w, ld, n_terms);
    end_sums(rows, 0, vectors, acc, out, ld, relu);
}

/* tile(rows), for the rows that whole tiles leave over: numbers that a compiler knows, so that
   it keeps the sums in registers. Row by row would wait for each product. */
#if TILES
#define OF_REST(rows, tile)                                                               \
    if (rows) tile((int)(rows));
#else
#define OF_REST(rows, tile)                                                               \
    switch (rows) {                                                                       \
        case 1: tile(1); break;                                                           \
        case 2: tile(2); break;                                                           \
        case 3: tile(3); break;                                                           \
        case 4: tile(4); break;                                                           \
        case 5: tile(5); break;                                                           \
    }
#endif

INLINE void product_panel(int vectors, int rows, const float *a, ptrdiff_t n_rows,
                          ptrdiff_t a_row, ptrdiff_t n_terms, const float *w, ptrdiff_t ld,
                          const float *bias, int relu, float *out) {
#define TILE(rows)                                                                        \
    product_tile(rows, vectors, a + n * a_row, a_row, n_terms, w, ld, bias, relu, out + n * ld)
    ptrdiff_t n = 0;
    for (; n + rows <= n_rows; n += rows) TILE(rows);
    for (; n + ROWS <= n_rows; n += ROWS) TILE(ROWS);
    OF_REST(n_rows - n, TILE)
#undef TILE
}

/* out (n_rows, ld) = a (n_rows, n_terms) @ w (n_terms, ld) + bias (ld), maybe rectified.
   Rows of a may overlap: those of a convolution do. */
static void product(const float *a, ptrdiff_t n_rows, ptrdiff_t a_row, ptrdiff_t n_terms,
                    const float *w, ptrdiff_t ld, const float *bias, int relu, float *out) {
    ptrdiff_t u = 0;
    for (; u + 4 * LANES <= ld; u += 4 * LANES)
        product_panel(4, ROWS, a, n_rows, a_row, n_terms, w + u, ld, bias ? bias + u : NULL,
                      relu, out + u);
    if (u + 2 * LANES <= ld) {
        product_panel(2, TALL, a, n_rows, a_row, n_terms, w + u, ld,
                      bias ? bias + u : NULL, relu, out + u);
        u += 2 * LANES;
    }
    if (u < ld)
        product_panel(1, TALL, a, n_rows, a_row, n_terms, w + u, ld,
                      bias ? bias + u : NULL, relu, out + u);
}

/* A weight (n_out, n_steps, n_columns) with strides. Its terms are ordered by step, then by
   column. */
typedef struct {
    float *values;
    ptrdiff_t n_out, n_steps, n_columns, out, step, column;
} Weight;

/* w (n_steps n_columns, n_out padded to ld), or back: what is in w is added to the weight.
   What is next to each other in the weight is taken together. */
INLINE void turn(const Weight *weight, float *w, ptrdiff_t ld, int is_back) {
    const ptrdiff_t J = weight->n_steps, C = weight->n_columns;
    const int by_steps = weight->step == 1 || weight->step == -1;
    const ptrdiff_t n = by_steps ? J : C;
    for (ptrdiff_t i = 0; i < (by_steps ? C : J); i++) {
        ptrdiff_t stride = by_steps ? weight->step : weight->column;
        ptrdiff_t row = by_steps ? C * ld : ld;
        float *of_weight = weight->values + i * (by_steps ? weight->column : weight->step);
        float *of_w = w + i * (by_steps ? ld : C * ld);
        if (stride < 0) {
            of_weight += (n - 1) * stride, of_w += (n - 1) * row;
            stride = -stride, row = -row;
        }
        if (is_back)
            put_transposed(of_w, row, 1, n, weight->n_out, of_weight, weight->out, stride, 1);
        else
            put_transposed(of_weight, weight->out, stride, weight->n_out, n, of_w, row, 1, 0);
    }
}

/* `product` for each of n_outer matrices, with a weight and a bias (n_out,) or NULL.
   scratch: (n_terms + 1, n_out padded to ld). */
void sklstm_affine(const float *a, ptrdiff_t n_outer, ptrdiff_t a_outer, ptrdiff_t n_rows,
                   ptrdiff_t a_row, const Weight *weight, const float *bias_, float *scratch,
                   float *out) {
    FLUSH
    const ptrdiff_t n_terms = weight->n_steps * weight->n_columns, n_out = weight->n_out;
    const ptrdiff_t ld = padded(n_out);
    float *bias = scratch, *w = scratch + ld;
    memset(scratch, 0, (ld == n_out ? 1 : n_terms + 1) * ld * sizeof(float));
    if (bias_) memcpy(bias, bias_, n_out * sizeof(float));
    turn(weight, w, ld, 0);
    pair(w, n_terms, ld);
    for (ptrdiff_t i = 0; i < n_outer; i++)
        product(a + i * a_outer, n_rows, a_row, n_terms, w, ld, bias, 0,
                out + i * n_rows * ld);
}

/* out (N, n_columns) = x (T, N, n_columns) with strides, added up over the steps of a row,
   in their order. */
void sklstm_sum(const float *x, ptrdiff_t n_steps, ptrdiff_t x_step, ptrdiff_t n_rows,
                ptrdiff_t x_row, ptrdiff_t n_columns, const long long *lengths, float *out) {
    FLUSH
    memset(out, 0, n_rows * n_columns * sizeof(float));
    for (ptrdiff_t n = 0; n < n_rows; n++)
        for (ptrdiff_t t = 0; t < (lengths ? within(lengths[n], n_steps) : n_steps); t++) {
            const float *from = x + t * x_step + n * x_row;
            for (ptrdiff_t k = 0; k < n_columns; k++) out[n * n_columns + k] += from[k];
        }
}

/* With TILES there are zeros in d, too, behind n_rows up to a whole tile. */
INLINE void weight_tile(int rows, int first, int last, const float *a, ptrdiff_t row,
                        ptrdiff_t step, const float *d, ptrdiff_t d_row, ptrdiff_t n_rows,
                        float *out, ptrdiff_t out_row) {
    vec acc[TALL][GATES] __attribute__((aligned(LANES * 4)));
    start_sums(rows, first, last, acc, out, out_row);
    multiply(rows, first, last, acc, a, row, step, n_rows, d, d_row, n_rows + ROWS);
    end_sums(rows, first, last, acc, out, out_row, 0);
}

/* a: number k of a row n is at a[k * row + n * step]. */
INLINE void weight_tiles(int rows, int first, int last, const float *a, ptrdiff_t row,
                         ptrdiff_t step, ptrdiff_t n_columns, const float *d,
                         ptrdiff_t d_row, ptrdiff_t n_rows, float *out, ptrdiff_t out_row) {
#define TILE(rows)                                                                        \
    weight_tile(rows, first, last, a + k * row, row, step, d, d_row, n_rows, out + k * out_row, \
                out_row)
    ptrdiff_t k = 0;
    for (; k + rows <= n_columns; k += rows) TILE(rows);
    for (; k + ROWS <= n_columns; k += ROWS) TILE(ROWS);
    OF_REST(n_columns - k, TILE)
#undef TILE
}

/* Rows and columns that are paired at a time; of whole tiles and vectors. */
enum { PIECE = 64, WIDTH = 96 };

/* out (n_columns, ...) += a (n_rows, n_columns)^T @ d (n_rows, ...), for the vectors from
   first up to last; `rows` columns of a at a time, which with PAIRS are words. */
INLINE void outer_panel(int rows, int first, int last, const float *a, ptrdiff_t row,
                        ptrdiff_t step, ptrdiff_t n_columns, const float *d,
                        ptrdiff_t d_row, ptrdiff_t n_rows, float *out, ptrdiff_t out_row) {
#if PAIRS
    float of_d[PIECE / 2][GATES * LANES] __attribute__((aligned(64)));
    pair_rows(d + first * LANES, d_row, n_rows, (last - first) * LANES,
              of_d[0] + first * LANES, GATES * LANES);
    n_rows = (n_rows + 1) / 2;
    for (ptrdiff_t n = n_rows; TILES && n % ROWS; n++) memset(of_d[n], 0, sizeof(*of_d));
    d = of_d[0], d_row = GATES * LANES;
#endif
    weight_tiles(rows, first, last, a, row, step, n_columns, d, d_row, n_rows, out, out_row);
}

INLINE void outer_panels(int first, int last, const float *a, ptrdiff_t row, ptrdiff_t step,
                         ptrdiff_t n_columns, const float *d, ptrdiff_t d_row,
                         ptrdiff_t n_rows, ptrdiff_t ld, float *out) {
    ptrdiff_t u = 0;
    for (; u + GATES * LANES <= ld; u += GATES * LANES)
        outer_panel(ROWS, first, last, a, row, step, n_columns, d + u, d_row, n_rows, out + u,
                    ld);
    if (u + 2 * LANES <= ld) {
        outer_panel(TALL, 0, 2, a, row, step, n_columns, d + u, d_row, n_rows, out + u, ld);
        u += 2 * LANES;
    }
    if (u < ld)
        outer_panel(TALL, 0, 1, a, row, step, n_columns, d + u, d_row, n_rows, out + u, ld);
}

/* out (n_columns, ld) += a (n_rows, n_columns)^T @ d (n_rows, ld), of each four vectors those
   from first up to last. With TILES a function of its own: inlined for each cell it takes
   160 KB of the stack. */
#if TILES
static __attribute__((noinline))
#else
INLINE
#endif
void outer(int first, int last, const float *a, ptrdiff_t a_row, ptrdiff_t n_columns,
           const float *d, ptrdiff_t d_row, ptrdiff_t n_rows, ptrdiff_t ld, float *out) {
#if PAIRS
    float words[PIECE / 2 * WIDTH] __attribute__((aligned(64)));
    const ptrdiff_t row = TILES ? PIECE / 2 : 1, step = TILES ? 1 : WIDTH;
    for (ptrdiff_t n = 0; n < n_rows; n += PIECE)
        for (ptrdiff_t k = 0; k < n_columns; k += WIDTH) {
            const ptrdiff_t n_now = least(n_rows - n, PIECE);
            const ptrdiff_t n_some = least(n_columns - k, WIDTH);
            const float *of_a = a + n * a_row + k;
            if (TILES)
                pair_columns(of_a, a_row, n_now, n_some, words, row);
            else
                pair_rows(of_a, a_row, n_now, n_some, words, step);
            outer_panels(first, last, words, row, step, n_some, d + n * d_row, d_row, n_now,
                         ld, out + k * ld);
        }
#else
    outer_panels(first, last, a, 1, a_row, n_columns, d, d_row, n_rows, ld, out);
#endif
}

/* The gradient of the weight of `sklstm_affine`, given that of its rows, d. out: (n_terms,
   n_out padded to ld), added to. What follows n_out in a row of d is read, and adds to
   what nobody needs. */
void sklstm_outer(const float *a, ptrdiff_t n_outer, ptrdiff_t a_outer, ptrdiff_t n_rows,
                  ptrdiff_t a_row, ptrdiff_t n_terms, const float *d, ptrdiff_t d_outer,
                  ptrdiff_t d_row, ptrdiff_t n_out, float *out) {
    FLUSH
    const ptrdiff_t ld = padded(n_out);
    for (ptrdiff_t i = 0; i < n_outer; i++)
        outer(0, GATES, a + i * a_outer, a_row, n_terms, d + i * d_outer, d_row, n_rows, ld,
              out);
}

/* Adds what `sklstm_outer` found to the gradient of a weight. */
void sklstm_add(const Weight *d_weight, float *d_w) {
    FLUSH
    turn(d_weight, d_w, padded(d_weight->n_out), 1);
}

/* The decoder of a forecast: of each row n and step z of n_steps,

       hidden = relu(state[n] + position[z] + of_known known[n, z])
       raw    = correction hidden + bias, and mixing hidden
       median = base + sum over c of (shares[z, c] + mixed[c]) change[c] + the middle of raw
                + linear[n, z]

   where known (n_known numbers) begins with the base and three changes. From the median on
   the other quantiles are reached by gaps, softplus of the rest of raw. */
typedef struct {
    ptrdiff_t n_rows, n_steps;
    Weight of_known, correction, mixing; /* (H, n_known), (Q, H), (3, H) */
} Decoder;

enum { CHANGES = 3 };
static ptrdiff_t n_read(const Decoder *d) { return d->correction.n_out + CHANGES; }

/* state: (N, Hp), position: (Z, Hp), shares: (Z, 3), known: (N, Z, n_known), linear:
   (N, Z) or NULL. hidden: (N, Z, Hp), raw: (N, Z, Q + 3 padded), quantiles:
   (N, Z, Q). w: the weights laid out: of_known (n_known, Hp), what is read out (H, Q + 3
   padded) and its bias; gaps: room for a row. */
static void decode(const Decoder *d, const float *state, const float *position,
                   const float *shares, const float *known, const float *linear,
                   const float *w, float *hidden, float *raw, float *gaps,
                   float *quantiles) {
    const ptrdiff_t H = d->of_known.n_out, width = padded(H), Q = d->correction.n_out;
    const ptrdiff_t n_known = d->of_known.n_columns, ld = padded(n_read(d)), middle = Q / 2;
    const float *readout = w + n_known * width, *biases = readout + H * ld;
    for (ptrdiff_t n = 0; n < d->n_rows; n++)
        for (ptrdiff_t z = 0; z < d->n_steps; z++) {
            const float *of_step = known + (n * d->n_steps + z) * n_known;
            float *to = hidden + (n * d->n_steps + z) * width;
            for (ptrdiff_t u = 0; u < width; u += LANES) {
                vec sum = load(state + n * width + u) + load(position + z * width + u);
                for (ptrdiff_t k = 0; k < n_known; k++)
                    sum += of_step[k] * load(w + k * width + u);
                store(to + u, rectify(sum));
            }
        }
    product(hidden, d->n_rows * d->n_steps, width, H, readout, ld, biases, 0, raw);
    for (ptrdiff_t r = 0; r < d->n_rows * d->n_steps; r++) {
        const float *base = known + r * n_known, *share = shares + r % d->n_steps * CHANGES;
        const float *of_row = raw + r * ld;
        float *out = quantiles + r * Q, median = base[0] + of_row[middle];
        for (int c = 0; c < CHANGES; c++) median += (share[c] + of_row[Q + c]) * base[1 + c];
        if (linear) median += linear[r];
        for (ptrdiff_t v = 0; v < ld; v += LANES) store(gaps + v, softplus(load(of_row + v)));
        out[middle] = median;
        float below = 0, above = 0;
        for (ptrdiff_t q = middle - 1; q >= 0; q--) out[q] = median - (below += gaps[q]);
        for (ptrdiff_t q = middle + 1; q < Q; q++) out[q] = median + (above += gaps[q]);
    }
}

/* Lays out the weights of a decoder in w, n_known Hp + (H + 1) (Q + 3 padded) numbers. */
void sklstm_lay_out_decoder(const Decoder *d, const float *bias, float *w) {
    const ptrdiff_t H = d->of_known.n_out, width = padded(H), Q = d->correction.n_out;
    const ptrdiff_t n_known = d->of_known.n_columns, ld = padded(n_read(d));
    float *readout = w + n_known * width, *biases = readout + H * ld;
    memset(w, 0, (n_known * width + (H + 1) * ld) * sizeof(float));
    turn(&d->of_known, w, width, 0);
    turn(&d->correction, readout, ld, 0);
    turn(&d->mixing, readout + Q, ld, 0);
    pair(readout, H, ld);
    memcpy(biases, bias, Q * sizeof(float));
}

/* Adds to the gradients of the weights, `to` and d_bias; the others are set. raw becomes
   its gradient. d_hidden: (N, Z, Hp), d_state: (N, Hp), d_position: (Z, Hp), d_shares:
   (Z, 3), d_median: (N, Z). scratch: (n_known + Q + 3) Hp + H (Q + 3 padded). */
static void decode_backward(const Decoder *d, const float *known, const float *hidden,
                            const float *d_quantiles, float *scratch, float *raw,
                            float *d_hidden, float *d_state, float *d_position,
                            float *d_shares, float *d_median, const Decoder *to,
                            float *d_bias) {
    const ptrdiff_t H = d->of_known.n_out, width = padded(H), Q = d->correction.n_out;
    const ptrdiff_t n_known = d->of_known.n_columns, ld = padded(n_read(d)), middle = Q / 2;
    const ptrdiff_t n = d->n_rows * d->n_steps;
    float *d_known = scratch, *readout = d_known + n_known * width;
    float *d_readout = readout + n_read(d) * width;
    memset(scratch, 0, ((n_known + n_read(d)) * width + H * ld) * sizeof(float));
    memset(d_state, 0, d->n_rows * width * sizeof(float));
    memset(d_position, 0, d->n_steps * width * sizeof(float));
    memset(d_shares, 0, d->n_steps * CHANGES * sizeof(float));
    for (ptrdiff_t r = 0; r < n; r++) {
        const float *change = known + r * n_known + 1, *of_row = d_quantiles + r * Q;
        float *d_row = raw + r * ld, *share = d_shares + r % d->n_steps * CHANGES;
        float total = 0, outwards = 0;
        for (ptrdiff_t v = 0; v < ld; v += LANES)
            store(d_row + v, sigmoid(load(d_row + v))); /* of the gaps by raw */
        for (ptrdiff_t q = 0; q < Q; q++) total += of_row[q];
        for (ptrdiff_t q = 0; q < middle; q++) d_row[q] *= -(outwards += of_row[q]);
        outwards = 0;
        for (ptrdiff_t q = Q - 1; q > middle; q--) d_row[q] *= outwards += of_row[q];
        d_row[middle] = d_median[r] = total;
        for (int c = 0; c < CHANGES; c++) share[c] += d_row[Q + c] = total * change[c];
        memset(d_row + n_read(d), 0, (ld - n_read(d)) * sizeof(float));
        for (ptrdiff_t q = 0; q < Q; q++) d_bias[q] += d_row[q];
    }
    sklstm_outer(hidden, 1, 0, n, width, H, raw, 0, ld, n_read(d), d_readout);
    turn(&to->correction, d_readout, ld, 1);
    turn(&to->mixing, d_readout + Q, ld, 1);
    for (ptrdiff_t o = 0; o < n_read(d); o++) {
        const Weight *w = o < Q ? &d->correction : &d->mixing;
        const float *of_row = w->values + (o < Q ? o : o - Q) * w->out;
        for (ptrdiff_t h = 0; h < H; h++) readout[o * width + h] = of_row[h * w->column];
    }
    pair(readout, n_read(d), width);
    product(raw, n, ld, n_read(d), readout, width, NULL, 0, d_hidden);
    for (ptrdiff_t r = 0; r < n; r++) {
        const float *of_step = known + r * n_known;
        float *of_state = d_state + r / d->n_steps * width;
        float *of_position = d_position + r % d->n_steps * width;
        for (ptrdiff_t u = 0; u < width; u += LANES) {
            const ivec is_active = load(hidden + r * width + u) > 0.0f;
            const vec x = (vec)((ivec)load(d_hidden + r * width + u) & is_active);
            store(of_state + u, load(of_state + u) + x);
            store(of_position + u, load(of_position + u) + x);
            for (ptrdiff_t k = 0; k < n_known; k++)
                store(d_known + k * width + u, load(d_known + k * width + u) + of_step[k] * x);
        }
    }
    turn(&to->of_known, d_known, width, 1);
}

/* The pinball loss of quantiles (N, Z, Q), as far as it is theirs in a batch of n_batch rows,
   and its gradient by them. weight: (N, Z). */
static double pinball(ptrdiff_t n_rows, ptrdiff_t n_batch, ptrdiff_t n_steps,
                      ptrdiff_t n_quantiles, const float *alpha, const float *quantiles,
                      const float *target, const float *weight, float *gradient) {
    double loss = 0;
    for (ptrdiff_t n = 0; n < n_rows; n++) {
        float total = 0;
        for (ptrdiff_t z = 0; z < n_steps; z++) total += weight[n * n_steps + z];
        /* Twice the pinball loss of the median is the absolute error. */
        const float share = 2.0f / ((total > 1 ? total : 1) * n_batch * n_quantiles);
        for (ptrdiff_t r = n * n_steps; r < (n + 1) * n_steps; r++)
            for (ptrdiff_t q = 0; q < n_quantiles; q++) {
                const float error = target[r] - quantiles[r * n_quantiles + q];
                const float slope = (error < 0 ? 1 - alpha[q] : -alpha[q]) * share * weight[r];
                gradient[r * n_quantiles + q] = slope;
                loss -= slope * error;
            }
    }
    return loss;
}

/* The network of a forecast. In evaluation its weights are laid out beforehand: those of
   layers by sklstm_forward, of maps by sklstm_affine, of the decoder by
   sklstm_lay_out_decoder. Without a stem (H, segment n_channels) a segment is a step.
   linear: (horizon, n_linear) or NULL. position: (horizon, Hp), shares: (horizon, 3). In
   training its sizes are read alone. */
typedef struct {
    ptrdiff_t cell, n_layers, n_channels, segment, hidden_size, n_linear, horizon;
    const float *const *layers, *stem, *of_state, *linear, *position, *shares, *w_decoder;
    Decoder decoder; /* sizes alone */
} Network;

/* The next numbers of an arena; counted in *n. */
static float *take(float *arena, ptrdiff_t *n, ptrdiff_t size) {
    *n += size;
    return arena ? arena + *n - size : NULL;
}

/* x: (N, n_segments segment, n_channels), rows of `lengths` segments, descending, or NULL;
   steps (Z,): which are decoded, or NULL: the first; known: (N, Z, n_known), quantiles:
   (N, Z, Q). Returns how many numbers the arena must have, and given NULL for it does nothing
   else. */
ptrdiff_t sklstm_forecast(const Network *f, ptrdiff_t n_rows, ptrdiff_t n_segments,
                          const float *x, const long long *lengths, ptrdiff_t n_steps,
                          const long long *steps, const float *known, float *arena,
                          float *quantiles) {
    FLUSH
    const ptrdiff_t H = f->hidden_size, width = padded(H), N = n_rows, T = n_segments;
    const ptrdiff_t n_read_in = f->segment * f->n_channels, of_linear = padded(f->horizon);
    Decoder d = f->decoder;
    d.n_rows = N, d.n_steps = n_steps;
    const ptrdiff_t ld = padded(n_read(&d)), n_decoded = N * n_steps;
    ptrdiff_t n = 0;
    float *read = take(arena, &n, f->stem ? N * T * width : 0);
    float *h[] = {take(arena, &n, (T + 1) * N * width), NULL};
    h[1] = take(arena, &n, f->n_layers > 1 ? (T + 1) * N * width : 0);
    float *c = take(arena, &n, N * width), *last = take(arena, &n, N * width);
    float *state = take(arena, &n, N * width);
    float *room = take(arena, &n, sklstm_room(N) * GATES * width);
    float *values = take(arena, &n, N * f->n_linear);
    float *linear = take(arena, &n, f->linear ? N * of_linear : 0);
    float *of_steps = take(arena, &n, f->linear ? N * n_steps : 0);
    float *position = take(arena, &n, n_steps * width);
    float *shares = take(arena, &n, n_steps * CHANGES);
    float *hidden = take(arena, &n, n_decoded * width), *raw = take(arena, &n, n_decoded * ld);
    float *gaps = take(arena, &n, ld);
    if (!arena) return n;
    Shape s = {f->cell, T, N, 0, N, f->n_channels, H, f->n_channels, T * f->n_channels,
               lengths, 1};
    const float *from = x;
    if (f->stem) {
        product(x, N * T, n_read_in, n_read_in, f->stem + width, width, f->stem, 1, read);
        from = read, s.n_inputs = H, s.x_step = width, s.x_row = T * width;
    }
    for (ptrdiff_t i = 0; i < f->n_layers; i++) {
        float *packed = (float *)f->layers[i]; /* not written to */
        sklstm_forward(&s, from, NULL, NULL, NULL, NULL, NULL, packed, room, h[i % 2], c, NULL);
        from = h[i % 2] + N * width;
        s.n_inputs = H, s.x_step = N * width, s.x_row = width;
    }
    for (ptrdiff_t r = 0; r < N; r++) {
        const ptrdiff_t end = lengths ? within(lengths[r], T) : T;
        memcpy(last + r * width, from + ((end - 1) * N + r) * width, width * sizeof(float));
        for (ptrdiff_t i = 0; i < f->n_linear; i++) {
            const ptrdiff_t step = end * f->segment - f->n_linear + i;
            values[r * f->n_linear + i] =
                step < 0 ? 0 : x[(r * T * f->segment + step) * f->n_channels];
        }
    }
    product(last, N, width, H, f->of_state + width, width, f->of_state, 0, state);
    if (f->linear)
        product(values, N, f->n_linear, f->n_linear, f->linear + of_linear, of_linear,
                f->linear, 0, linear);
    for (ptrdiff_t z = 0; z < n_steps; z++) {
        const ptrdiff_t at = steps ? steps[z] : z;
        memcpy(position + z * width, f->position + at * width, width * sizeof(float));
        memcpy(shares + z * CHANGES, f->shares + at * CHANGES, CHANGES * sizeof(float));
        for (ptrdiff_t r = 0; f->linear && r < N; r++)
            of_steps[r * n_steps + z] = linear[r * of_linear + at];
    }
    decode(&d, state, position, shares, known, f->linear ? of_steps : NULL, f->w_decoder,
           hidden, raw, gaps, quantiles);
    return n;
}

/* Sequences of steps of K values; those of a length have no steps beyond it. */
typedef struct {
    ptrdiff_t n_rows, n_steps, n_columns, x_row, x_step;
    const long long *lengths; /* or NULL: all are n_steps long */
} Sequences;
static ptrdiff_t length_of(const Sequences *s, ptrdiff_t n) {
    return s->lengths ? within(s->lengths[n], s->n_steps) : s->n_steps;
}

/* A convolution with the normalisation behind it, in evaluation: what it was in training on
   the mean, by running statistics, which are divided by their sum of weights. */
typedef struct {
    Weight weight; /* (n_out, k, n_columns) */
    const float *scale, *bias, *mean, *variance, *sum_of_weights;
    ptrdiff_t stride;
    float eps;
} Block;

/* What is added behind the convolution, and its weight times what is multiplied with there:
   w (k n_columns + 1, n_out padded). */
static void lay_out(const Block *b, float *w) {
    const Weight *weight = &b->weight;
    const ptrdiff_t n_terms = weight->n_steps * weight->n_columns, ld = padded(weight->n_out);
    memset(w, 0, (n_terms + 1) * ld * sizeof(float));
    turn(weight, w + ld, ld, 0);
    for (ptrdiff_t u = 0; u < weight->n_out; u++) {
        const float variance = b->variance[u] / *b->sum_of_weights;
        const float scale = b->scale[u] / sqrtf(variance + b->eps);
        w[u] = b->bias[u] - b->mean[u] / *b->sum_of_weights * scale;
        for (ptrdiff_t j = 1; j <= n_terms; j++) w[j * ld + u] *= scale;
    }
    pair(w + ld, n_terms, ld);
}

/* out (N, S, n_out padded) of x (N, T, n_columns), rectified, zero beyond a length; k / 2
   zeros are put in front of x and enough behind. s: of x, but lengths: of out. w: as
   `lay_out` does it, which is done first unless the weight is NULL. filled:
   (T + k - 1) n_columns. */
void sklstm_convolve(const Sequences *s, const float *x, const Block *b, float *w,
                     float *filled, float *out) {
    FLUSH
    const ptrdiff_t C = s->n_columns, k = b->weight.n_steps, n_before = k / 2 * C;
    const ptrdiff_t ld = padded(b->weight.n_out);
    const ptrdiff_t n_steps = (s->n_steps + b->stride - 1) / b->stride;
    if (b->weight.values) lay_out(b, w);
    memset(filled, 0, (s->n_steps + k - 1) * C * sizeof(float));
    for (ptrdiff_t n = 0; n < s->n_rows; n++) {
        float *of_row = out + n * n_steps * ld;
        const ptrdiff_t length = s->lengths ? within(s->lengths[n], n_steps) : n_steps;
        for (ptrdiff_t t = 0; t < s->n_steps; t++)
            memcpy(filled + n_before + t * C, x + n * s->x_row + t * s->x_step,
                   C * sizeof(float));
        product(filled, length, b->stride * C, k * C, w + ld, ld, w, 1, of_row);
        memset(of_row + length * ld, 0, (n_steps - length) * ld * sizeof(float));
    }
}

/* Batch normalisation (Ioffe & Szegedy, 2015) of x, rectified. out: (n_rows, n_steps, K),
   zero beyond a sequence. mean, variance (K,), the latter biased; partial: (K,).
   The running mean and unbiased variance go a share `momentum` of the way to those of x.
   Sums are of the sums of each sequence: nearer to exact. */
void sklstm_normalize(const Sequences *s, const float *restrict x,
                      const float *restrict weight, const float *restrict bias, float eps,
                      float momentum, float *restrict running_mean,
                      float *restrict running_variance, float *restrict mean,
                      float *restrict variance, float *restrict partial,
                      float *restrict out) {
    FLUSH
    const ptrdiff_t K = s->n_columns;
    ptrdiff_t total = 0;
    for (ptrdiff_t n = 0; n < s->n_rows; n++) total += length_of(s, n);
    memset(mean, 0, K * sizeof(float));
    memset(variance, 0, K * sizeof(float));
    for (int is_second = 0; is_second < 2; is_second++) {
        float *restrict sum = is_second ? variance : mean;
        for (ptrdiff_t n = 0; n < s->n_rows; n++) {
            memset(partial, 0, K * sizeof(float));
            for (ptrdiff_t t = 0; t < length_of(s, n); t++) {
                const float *restrict x_t = x + n * s->x_row + t * s->x_step;
                if (is_second)
                    for (ptrdiff_t k = 0; k < K; k++)
                        partial[k] += (x_t[k] - mean[k]) * (x_t[k] - mean[k]);
                else
                    for (ptrdiff_t k = 0; k < K; k++) partial[k] += x_t[k];
            }
            for (ptrdiff_t k = 0; k < K; k++) sum[k] += partial[k];
        }
        for (ptrdiff_t k = 0; k < K; k++) sum[k] /= total;
    }
    const float unbiased = total > 1 ? total / (total - 1.0f) : 1.0f;
    for (ptrdiff_t k = 0; k < K; k++) {
        running_mean[k] += momentum * (mean[k] - running_mean[k]);
        running_variance[k] += momentum * (variance[k] * unbiased - running_variance[k]);
    }
    for (ptrdiff_t k = 0; k < K; k++) partial[k] = weight[k] / sqrtf(variance[k] + eps);
    for (ptrdiff_t n = 0; n < s->n_rows; n++)
        for (ptrdiff_t t = 0; t < s->n_steps; t++) {
            const float *restrict x_t = x + n * s->x_row + t * s->x_step;
            float *restrict to = out + (n * s->n_steps + t) * K;
            if (t >= length_of(s, n)) {
                memset(to, 0, K * sizeof(float));
                continue;
            }
            for (ptrdiff_t k = 0; k < K; k++) {
                const float y = (x_t[k] - mean[k]) * partial[k] + bias[k];
                to[k] = y < 0.0f ? 0.0f : y; /* NaN stays */
            }
        }
}

/* Backwards: out (n_rows, n_steps, K) is what it was, d_out its gradient; d_weight and
   d_bias (K,) are added to, and d_x, whose strides are d_row and d_step, is set within
   sequences. partial: (6, K). With g the gradient before the rectifier and z the normalised
   x, d_x = weight / sd (g - mean(g) - z mean(g z)). */
void sklstm_normalize_backward(const Sequences *s, const float *restrict x,
                               const float *restrict weight, float eps,
                               const float *restrict mean, const float *restrict variance,
                               const float *restrict out, const float *restrict d_out,
                               float *restrict partial, float *restrict d_weight_,
                               float *restrict d_bias_, float *restrict d_x,
                               ptrdiff_t d_row, ptrdiff_t d_step) {
    FLUSH
    const ptrdiff_t K = s->n_columns;
    ptrdiff_t total = 0;
    for (ptrdiff_t n = 0; n < s->n_rows; n++) total += length_of(s, n);
    float *restrict of_bias = partial, *restrict of_weight = partial + K;
    float *restrict d_bias = partial + 2 * K, *restrict d_weight = partial + 3 * K;
    float *restrict scale = partial + 4 * K, *restrict slope = partial + 5 * K;
    memset(d_bias, 0, K * sizeof(float));
    memset(d_weight, 0, K * sizeof(float));
    for (ptrdiff_t n = 0; n < s->n_rows; n++) {
        memset(of_bias, 0, K * sizeof(float));
        memset(of_weight, 0, K * sizeof(float));
        for (ptrdiff_t t = 0; t < length_of(s, n); t++) {
            const float *restrict x_t = x + n * s->x_row + t * s->x_step;
            const ptrdiff_t at = (n * s->n_steps + t) * K;
            for (ptrdiff_t k = 0; k < K; k++) {
                const float g = out[at + k] == 0.0f ? 0.0f : d_out[at + k];
                of_bias[k] += g;
                of_weight[k] += g * (x_t[k] - mean[k]);
            }
        }
        for (ptrdiff_t k = 0; k < K; k++) {
            d_bias[k] += of_bias[k];
            d_weight[k] += of_weight[k];
        }
    }
    for (ptrdiff_t k = 0; k < K; k++) {
        const float inverse = 1.0f / sqrtf(variance[k] + eps);
        scale[k] = weight[k] * inverse;
        slope[k] = d_weight[k] * inverse * inverse / total;
        d_weight_[k] += d_weight[k] * inverse;
        d_bias_[k] += d_bias[k];
        d_bias[k] /= total;
    }
    for (ptrdiff_t n = 0; n < s->n_rows; n++)
        for (ptrdiff_t t = 0; t < length_of(s, n); t++) {
            const float *restrict x_t = x + n * s->x_row + t * s->x_step;
            const ptrdiff_t at = (n * s->n_steps + t) * K;
            float *restrict to = d_x + n * d_row + t * d_step;
            for (ptrdiff_t k = 0; k < K; k++) {
                const float g = out[at + k] == 0.0f ? 0.0f : d_out[at + k];
                to[k] = scale[k] * (g - d_bias[k] - (x_t[k] - mean[k]) * slope[k]);
            }
        }
}

/* Factors (n_rows, n_steps, n_columns) of dropout, with strides; values NULL for none.
   Step t of a sequence has those of step t, or with is_reversed of the t-th from its end. */
typedef struct {
    const float *values;
    ptrdiff_t row, step, is_reversed;
} Factors;
static const float *factors_at(const Factors *f, const Sequences *s, ptrdiff_t n,
                               ptrdiff_t t) {
    if (!f->values) return NULL;
    return f->values + n * f->row + (f->is_reversed ? length_of(s, n) - 1 - t : t) * f->step;
}

/* Adds a step to the mean and the maximum; either may be NULL. */
INLINE void pool_step(ptrdiff_t t, ptrdiff_t K, const float *restrict x,
                      const float *restrict factor, int has_factor, float *restrict mean,
                      float *restrict highest, int *restrict at) {
    if (mean)
        for (ptrdiff_t k = 0; k < K; k++) mean[k] += has_factor ? x[k] * factor[k] : x[k];
    if (highest && t == 0)
        for (ptrdiff_t k = 0; k < K; k++) {
            highest[k] = has_factor ? x[k] * factor[k] : x[k];
            at[k] = 0;
        }
    else if (highest)
        for (ptrdiff_t k = 0; k < K; k++) {
            const float y = has_factor ? x[k] * factor[k] : x[k];
            /* NaN is higher than any number, and no number than it. */
            const int is_higher = !(y <= highest[k]) && highest[k] == highest[k];
            highest[k] = is_higher ? y : highest[k];
            at[k] = is_higher ? (int)t : at[k];
        }
}

/* Mean and maximum over the steps of x times factors, and the first step of the maximum:
   (n_rows, K) each, those of a row p_row apart but in at; mean or highest may be NULL. */
void sklstm_pool(const Sequences *s, const float *restrict x, const Factors *f,
                 float *restrict mean, float *restrict highest, ptrdiff_t p_row,
                 int *restrict at) {
    FLUSH
    const ptrdiff_t K = s->n_columns;
    for (ptrdiff_t n = 0; n < s->n_rows; n++) {
        float *restrict m = mean ? mean + n * p_row : NULL;
        float *restrict top = highest ? highest + n * p_row : NULL;
        int *restrict where = at + n * K;
        if (mean) memset(m, 0, K * sizeof(float));
        for (ptrdiff_t t = 0; t < length_of(s, n); t++) {
            const float *restrict x_t = x + n * s->x_row + t * s->x_step;
            const float *restrict factor = factors_at(f, s, n, t);
            if (factor)
                pool_step(t, K, x_t, factor, 1, m, top, where);
            else
                pool_step(t, K, x_t, NULL, 0, m, top, where);
        }
        if (mean)
            for (ptrdiff_t k = 0; k < K; k++) m[k] /= length_of(s, n);
    }
}

/* A network that reads sequences, in evaluation, its weights laid out beforehand: those of
   convolutions by `lay_out`, of maps by sklstm_affine, of layers, all directions of one
   after another, by sklstm_forward. In front of the layers there are blocks (sizes alone),
   a stem (H, n_channels) or nothing. Pooled is the last state, or the mean or the maximum
   over time or both, of the directions and, if it skips, of what is in front of them. */
typedef struct {
    ptrdiff_t cell, n_layers, n_directions, n_channels, hidden_size, n_blocks, n_outputs;
    ptrdiff_t is_last, has_mean, has_max, skips;
    const Block *blocks;
    const float *const *w_blocks, *const *layers, *stem, *readout;
} Reader;

/* Steps of rows: t of row n is at `values + n row + t step`. */
typedef struct {
    const float *values;
    ptrdiff_t row, step, n_columns;
} Steps;

/* Rows in reverse, each within its own length, zero beyond: out (N, S, n_columns). */
static void turn_back(const Steps *x, ptrdiff_t N, ptrdiff_t S, const long long *lengths,
                      float *out) {
    const ptrdiff_t size = x->n_columns * sizeof(float);
    for (ptrdiff_t n = 0; n < N; n++)
        for (ptrdiff_t t = 0; t < S; t++, out += x->n_columns)
            if (t < lengths[n])
                memcpy(out, x->values + n * x->row + (lengths[n] - 1 - t) * x->step, size);
            else
                memset(out, 0, size);
}

/* Mean and maximum of a part of what is pooled, whose rows may be read in reverse; added up
   in the order of time. mean, highest: of the first row, others p_row behind, or NULL. */
static void pool_part(const Steps *x, ptrdiff_t N, const long long *lengths, int is_reversed,
                      float *mean, float *highest, ptrdiff_t p_row, int *at) {
    for (ptrdiff_t n = 0; n < N; n++) {
        const ptrdiff_t length = lengths[n];
        float *m = mean ? mean + n * p_row : NULL, *top = highest ? highest + n * p_row : NULL;
        if (m) memset(m, 0, x->n_columns * sizeof(float));
        for (ptrdiff_t k = 0; top && k < x->n_columns; k++) top[k] = -INFINITY;
        for (ptrdiff_t t = 0; t < length; t++)
            pool_step(t, x->n_columns,
                      x->values + n * x->row + (is_reversed ? length - 1 - t : t) * x->step,
                      NULL, 0, m, top, at);
        if (m)
            for (ptrdiff_t k = 0; k < x->n_columns; k++) m[k] /= length;
    }
}

/* x: (N, T, n_channels), rows and steps so far apart; lengths: (N,), at least 1, or NULL.
   pooled: (N, P), raw: (N, n_outputs padded). Returns how many numbers the arena, whose
   address is a multiple of 8, must have, and given NULL for it does nothing else. */
ptrdiff_t sklstm_read(const Reader *f, ptrdiff_t N, ptrdiff_t T, const float *x,
                      ptrdiff_t x_row, ptrdiff_t x_step, const long long *lengths,
                      float *arena, float *pooled, float *raw) {
    FLUSH
    const ptrdiff_t H = f->hidden_size, width = padded(H), D = f->n_directions * H;
    ptrdiff_t S = T, n_filled = 0, n = 0;
    for (ptrdiff_t i = 0; i < f->n_blocks; i++) {
        const Block *b = f->blocks + i;
        const ptrdiff_t size = (S + b->weight.n_steps - 1) * b->weight.n_columns;
        n_filled = most(n_filled, size);
        S = (S + b->stride - 1) / b->stride;
    }
    const ptrdiff_t first = f->n_blocks ? (T + f->blocks->stride - 1) / f->blocks->stride : T;
    const ptrdiff_t of_stem = f->n_blocks || f->stem ? N * first * width : 0;
    const ptrdiff_t widest = most(D, f->n_channels); /* input of a layer */
    long long *ends = (long long *)take(arena, &n, 2 * N);
    float *out[] = {take(arena, &n, of_stem), NULL};
    out[1] = take(arena, &n, f->n_blocks > 1 ? of_stem : 0);
    float *filled = take(arena, &n, n_filled);
    float *h[2][2], *joined = NULL, *turned = NULL;
    for (int i = 0; i < 4; i++) {
        const int is_used = i % 2 < f->n_directions && i / 2 < f->n_layers;
        h[i / 2][i % 2] = take(arena, &n, is_used ? (S + 1) * N * width : 0);
    }
    joined = take(arena, &n, f->n_directions > 1 && f->n_layers > 1 ? S * N * D : 0);
    turned = take(arena, &n, f->n_directions > 1 && lengths ? S * N * widest : 0);
    float *c = take(arena, &n, N * width);
    float *room = take(arena, &n, sklstm_room(N) * GATES * width);
    int *at = (int *)take(arena, &n, widest);
    if (!arena) return n;

    int descends = 1;
    for (ptrdiff_t r = 0; r < N; r++) {
        ends[r] = lengths ? within(lengths[r], T) : T;
        descends &= !r || ends[r] <= ends[r - 1];
    }
    Steps from = {x, x_row, x_step, f->n_channels};
    for (ptrdiff_t i = 0, steps = T; i < f->n_blocks; i++) {
        const Block *b = f->blocks + i;
        const Sequences s = {N, steps, from.n_columns, from.row, from.step, ends};
        for (ptrdiff_t r = 0; r < N; r++) ends[r] = (ends[r] + b->stride - 1) / b->stride;
        steps = (steps + b->stride - 1) / b->stride;
        sklstm_convolve(&s, from.values, b, (float *)f->w_blocks[i], filled, out[i % 2]);
        from = (Steps){out[i % 2], steps * width, width, H};
    }
    if (f->stem) {
        for (ptrdiff_t r = 0; r < N; r++)
            product(x + r * x_row, T, x_step, f->n_channels, f->stem + width, width, f->stem,
                    1, out[0] + r * T * width);
        from = (Steps){out[0], T * width, width, H};
    }
    const Steps in_front = from;
    Steps states[2];
    for (ptrdiff_t i = 0; i < f->n_layers; i++) {
        for (int is_reversed = 0; is_reversed < f->n_directions; is_reversed++) {
            Steps read = from;
            if (is_reversed && lengths) {
                turn_back(&from, N, S, ends, turned);
                read = (Steps){turned, S * from.n_columns, from.n_columns, from.n_columns};
            } else if (is_reversed) {
                read.values += (S - 1) * read.step;
                read.step = -read.step;
            }
            const Shape s = {f->cell, S, N, 0, N, read.n_columns, H, read.step, read.row,
                             lengths && descends ? ends : NULL, 1};
            float *packed = (float *)f->layers[i * f->n_directions + is_reversed];
            float *to = h[i % 2][is_reversed];
            sklstm_forward(&s, read.values, NULL, NULL, NULL, NULL, NULL, packed, room, to, c,
                           NULL);
            states[is_reversed] = (Steps){to + N * width, width, N * width, H};
        }
        from = states[0];
        if (f->n_directions > 1 && i + 1 < f->n_layers) {
            for (ptrdiff_t t = 0; t < S; t++)
                for (ptrdiff_t r = 0; r < N; r++) {
                    float *row = joined + (t * N + r) * D;
                    const ptrdiff_t back = (t < ends[r] ? ends[r] - 1 - t : t) * N + r;
                    memcpy(row, states[0].values + (t * N + r) * width, H * sizeof(float));
                    memcpy(row + H, states[1].values + back * width, H * sizeof(float));
                }
            from = (Steps){joined, D, N * D, D};
        }
    }
    const ptrdiff_t n_pooled = D + (f->skips ? in_front.n_columns : 0);
    const ptrdiff_t P = n_pooled * (f->is_last ? 1 : f->has_mean + f->has_max);
    for (int part = 0; part < f->n_directions + f->skips; part++) {
        const Steps *of = part < f->n_directions ? states + part : &in_front;
        float *to = pooled + part * H;
        if (!f->is_last) {
            float *highest = f->has_max ? to + (f->has_mean ? n_pooled : 0) : NULL;
            pool_part(of, N, ends, part == 1 && f->n_directions > 1, f->has_mean ? to : NULL,
                      highest, P, at);
            continue;
        }
        for (ptrdiff_t r = 0; r < N; r++)
            memcpy(to + r * P, of->values + (ends[r] - 1) * of->step + r * of->row,
                   H * sizeof(float));
    }
    if (raw) {
        const ptrdiff_t ld = padded(f->n_outputs);
        product(pooled, N, P, P, f->readout + ld, ld, f->readout, 0, raw);
    }
    return n;
}

/* Backwards: d_x, whose strides are d_row and d_step, is set, to zero beyond a sequence. */
void sklstm_pool_backward(const Sequences *s, const Factors *f, const float *restrict d_mean,
                          const float *restrict d_highest, ptrdiff_t p_row,
                          const int *restrict at, float *restrict d_x, ptrdiff_t d_row,
                          ptrdiff_t d_step) {
    FLUSH
    const ptrdiff_t K = s->n_columns;
    for (ptrdiff_t n = 0; n < s->n_rows; n++) {
        const float *restrict m = d_mean ? d_mean + n * p_row : NULL;
        const float *restrict top = d_highest ? d_highest + n * p_row : NULL;
        const int *restrict where = at + n * K;
        const float share = 1.0f / length_of(s, n);
        for (ptrdiff_t t = 0; t < s->n_steps; t++) {
            float *restrict to = d_x + n * d_row + t * d_step;
            memset(to, 0, K * sizeof(float));
            if (t >= length_of(s, n)) continue;
            const float *restrict factor = factors_at(f, s, n, t);
            if (d_mean)
                for (ptrdiff_t k = 0; k < K; k++) to[k] = m[k] * share;
            if (d_highest)
                for (ptrdiff_t k = 0; k < K; k++) to[k] += where[k] == (int)t ? top[k] : 0.0f;
            if (factor)
                for (ptrdiff_t k = 0; k < K; k++) to[k] *= factor[k];
        }
    }
}

/* Factors of dropout: `factor` where a draw is at least `least`, else 0. */
void sklstm_drop(ptrdiff_t n, const short *restrict draws, ptrdiff_t least, float factor,
                 float *restrict out) {
    for (ptrdiff_t i = 0; i < n; i++) out[i] = draws[i] >= (int)least ? factor : 0.0f;
}

/* A step of Adam (Kingma & Ba, 2015) for n numbers: `penalty` times a number is added to
   its gradient, and a share `decay` of it is taken away, where is_map is 1 and not where
   it is 0. The corrections are those of the first moment and of the second's root. */
void sklstm_adam(ptrdiff_t n, float *restrict data, const float *restrict grad,
                 float *restrict first, float *restrict second,
                 const float *restrict is_map, float penalty, float decay, float beta1,
                 float beta2, float eps, float rate, float correction1,
                 float root_correction2) {
    FLUSH
    for (ptrdiff_t i = 0; i < n; i++) {
        const float g = grad[i] + penalty * is_map[i] * data[i];
        first[i] += (1 - beta1) * (g - first[i]);
        second[i] = beta2 * second[i] + (1 - beta2) * g * g;
        const float root = sqrtf(second[i]) / root_correction2 + eps;
        data[i] -= decay * is_map[i] * data[i] + rate / correction1 * first[i] / root;
    }
}

/* Weight (gates H, K) -> w (4 Hp in the order of the sums, ld). */
static void transpose_order(const float *weight, Gates gates, ptrdiff_t n_columns,
                            ptrdiff_t hidden_size, float *w, ptrdiff_t ld) {
    for (int g = 0; g < gates.n; g++)
        for (ptrdiff_t u = 0; u < hidden_size; u++)
            memcpy(w + ((u / LANES * GATES + gates.sum[g]) * LANES + u % LANES) * ld,
                   weight + (g * hidden_size + u) * n_columns, n_columns * sizeof(float));
}

/* The gradients of a row and block at a step, from dh and from dc: of a GRU what goes to
   the state before directly, else of the cell. gate: what `activate` kept; overwritten
   by gradients before the activations, which are added to d_bias and, times the cell, to
   those of the peepholes p. */
INLINE void backward_block(int cell, float *gate, const float *h, const float *c,
                           const float *c_next, const float *p, const float *dh, float *dc,
                           float *d_bias, float *d_p) {
    vec d[GATES], d_h = load(dh), d_c = load(dc);
    if (cell == GRU) {
        vec n = load(gate), r = load(gate + LANES);
        vec z = load(gate + 2 * LANES), n_h = load(gate + 3 * LANES);
        d_h += d_c;
        d[0] = (d_h - d_h * z) * (1.0f - n * n);
        d[1] = d[0] * n_h * (r * (1.0f - r));
        d[2] = d_h * (load(h) - n) * (z * (1.0f - z));
        d[3] = d[0] * r;
        store(dc, d_h * z);
    } else {
        vec i = load(gate), f = load(gate + LANES);
        vec g = load(gate + 2 * LANES), o = load(gate + 3 * LANES);
        vec before = load(c), now = load(c_next), tc = tanh_(now);
        d[3] = d_h * tc * (o * (1.0f - o));
        d_c += d_h * o * (1.0f - tc * tc);
        if (cell == PEEPHOLE) d_c += d[3] * load(p + 3 * LANES);
        d[0] = d_c * g * (i * (1.0f - i));
        d[1] = d_c * before * (f * (1.0f - f));
        d[2] = d_c * i * (1.0f - g * g);
        d_c *= f;
        if (cell == PEEPHOLE) {
            d_c += d[0] * load(p) + d[1] * load(p + LANES);
            store(d_p, load(d_p) + d[0] * before);
            store(d_p + LANES, load(d_p + LANES) + d[1] * before);
            store(d_p + 3 * LANES, load(d_p + 3 * LANES) + d[3] * now);
        }
        store(dc, d_c);
    }
#pragma GCC unroll 4
    for (int g = 0; g < GATES; g++) {
        store(gate + g * LANES, d[g]);
        store(d_bias + g * LANES, load(d_bias + g * LANES) + d[g]);
    }
}

INLINE void backward(int cell, const Shape *s, const float *x, const float *h, const float *c,
                     float *gates, const float *d_out, ptrdiff_t d_step, ptrdiff_t d_row,
                     const float *d_last, float *d_x, float *dh, float *dc, const float *w_h,
                     const float *w_x, const float *p, float *d_w) {
    const ptrdiff_t H = s->hidden_size, I = s->n_inputs, width = padded(H);
    const ptrdiff_t in_width = padded(I), all = GATES * width, batch = s->n_rows * width;
    for (ptrdiff_t t = s->n_steps - 1; t >= 0; t--) {
        float *gates_t = gates + t * batch * GATES;
        const float *h_t = h + t * batch, *c_t = c + t * batch, *c_next = c_t + batch;
        const ptrdiff_t end = end_at(s, t), n_rows = end - s->begin;
        for (ptrdiff_t n = s->begin; n < end; n++) {
            if (d_last && t + 1 == (s->lengths ? s->lengths[n] : s->n_steps))
                for (ptrdiff_t u = 0; u < H; u++) dh[n * width + u] += d_last[n * H + u];
            if (d_out) {
                const float *d = d_out + t * d_step + n * d_row;
                for (ptrdiff_t u = 0; u < H; u++) dh[n * width + u] += d[u];
            }
            for (ptrdiff_t u = 0; u < width; u += LANES) {
                const ptrdiff_t at = n * width + u;
                float *d_p = cell == PEEPHOLE ? d_w + (1 + I + H) * all + u * GATES : NULL;
                backward_block(cell, gates_t + at * GATES, h_t + at, c_t + at, c_next + at,
                               cell == PEEPHOLE ? p + u * GATES : NULL, dh + at, dc + at,
                               d_w + u * GATES, d_p);
            }
        }
        const float *d = gates_t + s->begin * all;
        outer(INPUT_SUMS(cell), x + t * s->x_step + s->begin * s->x_row, s->x_row, I, d, all,
              n_rows, all, d_w + all);
        if (t > 0) {
            outer(STATE_SUMS(cell), h_t + s->begin * width, width, H, d, all, n_rows, all,
                  d_w + (1 + I) * all);
            product(d, n_rows, all, all, w_h, width, NULL, 0, dh + s->begin * width);
        }
        if (d_x)
            product(d, n_rows, all, all, w_x, in_width, NULL, 0,
                    d_x + (t * s->n_rows + s->begin) * in_width);
    }
}

/* d_out (T, N, H) with strides, or NULL; d_last (N, H) contiguous, or NULL.
   gates are overwritten by the gradients before the activations.
   d_x: (T, N, Ip) or NULL. d_state: (2, N, Hp). scratch: (terms + Hp + 1, 4Hp) for d_w, w_h
   and p, and with d_x (4Hp, Ip) more. The gradients of the weights are added to those given. */
void sklstm_backward(const Shape *s, const float *x, const float *w_ih, const float *w_hh,
                     const float *peepholes, const float *h, const float *c, float *gates,
                     const float *d_out, ptrdiff_t d_step, ptrdiff_t d_row,
                     const float *d_last, float *d_x, float *d_state, float *scratch,
                     float *d_w_ih, float *d_w_hh, float *d_b_ih, float *d_b_hh,
                     float *d_peepholes) {
    FLUSH
    const ptrdiff_t H = s->hidden_size, I = s->n_inputs, width = padded(H);
    const ptrdiff_t in_width = padded(I), all = GATES * width;
    float *dh = d_state, *dc = d_state + s->n_rows * width;
    float *d_w = scratch, *w_h = d_w + terms(s) * all, *p = w_h + width * all, *w_x = p + all;
    const Gates input = of_input(s->cell), state = of_state(s->cell);
    memset(w_h, 0, all * width * sizeof(float));
    transpose_order(w_hh, state, H, H, w_h, width);
    pair(w_h, all, width);
    if (d_x) {
        memset(w_x, 0, all * in_width * sizeof(float));
        transpose_order(w_ih, input, I, H, w_x, in_width);
        pair(w_x, all, in_width);
    }
    if (peepholes) {
        memset(p, 0, all * sizeof(float));
        pack(peepholes, PEEPHOLES, 1, H, p, 0, 1);
    }
    memset(d_w, 0, terms(s) * all * sizeof(float));
    for (ptrdiff_t n = s->begin; n < s->end; n++) {
        memset(dc + n * width, 0, width * sizeof(float));
        memset(dh + n * width, 0, width * sizeof(float));
    }
#define BACKWARD(CELL)                                                                    \
    if (s->cell == CELL)                                                                  \
        backward(CELL, s, x, h, c, gates, d_out, d_step, d_row, d_last, d_x, dh, dc, w_h, \
                 w_x, p, d_w);
    if (s->cell == GRU) c = h; /* it has no other state; not read */
    BACKWARD(LSTM)
    BACKWARD(PEEPHOLE)
    BACKWARD(GRU)
    unpack(d_w, input, 1, H, d_b_ih);
    unpack(d_w, state, 1, H, d_b_hh);
    unpack(d_w + all, input, I, H, d_w_ih);
    unpack(d_w + (1 + I) * all, state, H, H, d_w_hh);
    if (d_peepholes) unpack(d_w + (1 + I + H) * all, PEEPHOLES, 1, H, d_peepholes);
}

/* The weights of the network of a forecast as they are, or their gradients. */
typedef struct {
    Weight stem, of_state, of_position, linear; /* (H, n_terms); (horizon, n_linear) */
    Decoder decoder;                            /* weights alone */
    float *stem_bias, *state_bias, *bias, *position, *shares;
    float *const *layers; /* of each: weights of the input and the state, their biases,
                             peepholes or NULL */
} Parts;

/* Rows of a batch: x (N, T segment, n_channels), known (N, Z, n_known), target and weight
   (N, Z). steps (Z,): which are decoded; factors: of dropout behind each layer, (T, N, H)
   with steps factors_step apart, behind the last (N, H); either may be NULL. */
typedef struct {
    ptrdiff_t n_rows, n_batch, n_segments, n_steps, factors_step;
    const float *x, *known, *target, *weight, *alpha;
    const long long *steps;
    const float *const *factors;
} Batch;

/* w (n_out, n_columns padded): a weight row by row, for the way back. */
static void copy_rows(const Weight *weight, float *w) {
    const ptrdiff_t ld = padded(weight->n_columns);
    memset(w, 0, weight->n_out * ld * sizeof(float));
    for (ptrdiff_t o = 0; o < weight->n_out; o++)
        memcpy(w + o * ld, weight->values + o * weight->out,
               weight->n_columns * sizeof(float));
    pair(w, weight->n_out, ld);
}

/* Adds the rows of d (N, n_columns), d_row apart, to out. */
static void add_rows(const float *d, ptrdiff_t n_rows, ptrdiff_t d_row, ptrdiff_t n_columns,
                     float *out) {
    for (ptrdiff_t n = 0; n < n_rows; n++)
        for (ptrdiff_t k = 0; k < n_columns; k++) out[k] += d[n * d_row + k];
}

/* Adds a^T d to the gradient of a weight; out: (n_terms, n_out padded), for the sum. */
static void add_product(const float *a, ptrdiff_t n_outer, ptrdiff_t a_outer, ptrdiff_t n_rows,
                        ptrdiff_t a_row, const float *d, ptrdiff_t d_outer, ptrdiff_t d_row,
                        const Weight *to, float *out) {
    const ptrdiff_t n_terms = to->n_columns, ld = padded(to->n_out);
    memset(out, 0, n_terms * ld * sizeof(float));
    sklstm_outer(a, n_outer, a_outer, n_rows, a_row, n_terms, d, d_outer, d_row, to->n_out,
                 out);
    turn(to, out, ld, 1);
}

/* What a step of learning has room for; d_ is the gradient of what follows. Of a layer are
   kept h, c, gates and its states times factors. */
typedef struct {
    ptrdiff_t of_h, of_gates, of_layer, n_terms; /* sizes; of the weights of a layer */
    float *read, *kept, *scratch, *last, *state, *of_position, *position, *shares, *linear;
    float *values, *of_steps, *w_decoder, *hidden, *raw, *gaps, *quantiles, *d_quantiles;
    float *for_decoder, *d_hidden, *d_state, *d_position, *d_shares, *d_median, *d_last;
    float *d_rows, *d_end, *d_ends, *d_x[2];
} Room;

/* The sizes of a decoder in a batch. */
static Decoder decoder_of(const Decoder *weights, const Batch *b) {
    Decoder d = *weights;
    d.n_rows = b->n_rows, d.n_steps = b->n_steps;
    return d;
}

/* Takes it from an arena, which may be NULL; returns how many numbers that must have. */
static ptrdiff_t make_room(const Network *f, const Parts *w, const Batch *b, float *arena,
                           Room *r) {
    const ptrdiff_t H = f->hidden_size, width = padded(H), N = b->n_rows, T = b->n_segments;
    const ptrdiff_t Z = b->n_steps, segment = f->segment * f->n_channels, L = f->n_linear;
    const ptrdiff_t all = GATES * width, row = N * width, of_linear = padded(f->horizon);
    const ptrdiff_t P = w->of_position.n_columns, Q = w->decoder.correction.n_out;
    const ptrdiff_t n_known = w->decoder.of_known.n_columns;
    const ptrdiff_t ld = padded(n_read(&w->decoder));
    const ptrdiff_t n_first = w->stem.values ? H : segment;
    const ptrdiff_t widest = most(padded(n_first), width);
    r->n_terms = 2 + H + most(n_first, H);
    r->of_h = (T + 1) * row, r->of_gates = T * row * GATES;
    r->of_layer = 2 * r->of_h + r->of_gates + (b->factors ? T * row : 0);
    const ptrdiff_t for_layer = r->n_terms + most(width + 1 + widest, sklstm_room(N));
    const ptrdiff_t for_maps = most((segment + 1) * width, (L + 1) * of_linear);
    ptrdiff_t n = 0;
    r->read = take(arena, &n, w->stem.values ? N * T * width : 0);
    r->kept = take(arena, &n, f->n_layers * r->of_layer);
    r->scratch = take(arena, &n, most(for_layer * all, for_maps));
    r->last = take(arena, &n, row), r->state = take(arena, &n, row);
    r->of_position = take(arena, &n, Z * P), r->position = take(arena, &n, Z * width);
    r->shares = take(arena, &n, Z * CHANGES), r->linear = take(arena, &n, N * of_linear);
    r->values = take(arena, &n, N * L), r->of_steps = take(arena, &n, N * Z);
    r->w_decoder = take(arena, &n, n_known * width + (H + 1) * ld);
    r->hidden = take(arena, &n, N * Z * width), r->raw = take(arena, &n, N * Z * ld);
    r->gaps = take(arena, &n, ld), r->quantiles = take(arena, &n, N * Z * Q);
    r->d_quantiles = take(arena, &n, N * Z * Q);
    r->for_decoder = take(arena, &n, (n_known + Q + CHANGES) * width + H * ld);
    r->d_hidden = take(arena, &n, N * Z * width), r->d_state = take(arena, &n, row);
    r->d_position = take(arena, &n, Z * width);
    r->d_shares = take(arena, &n, Z * CHANGES);
    r->d_median = take(arena, &n, N * Z + LANES), r->d_last = take(arena, &n, row);
    r->d_rows = take(arena, &n, Z * padded(P)), r->d_end = take(arena, &n, N * H);
    r->d_ends = take(arena, &n, 2 * row);
    r->d_x[0] = take(arena, &n, T * N * widest);
    r->d_x[1] = take(arena, &n, f->n_layers > 1 ? T * N * widest : 0);
    return n;
}

/* to (T, N, Hp) = from (T, N, Hp) times the factors of dropout behind a layer. */
static void times_factors(const Network *f, const Batch *b, ptrdiff_t layer, const float *from,
                          float *to) {
    const ptrdiff_t H = f->hidden_size, width = padded(H), N = b->n_rows;
    const float *factors = b->factors[layer];
    for (ptrdiff_t t = 0; t < b->n_segments; t++)
        for (ptrdiff_t r = 0; r < N; r++)
            for (ptrdiff_t u = 0; u < H; u++) {
                const ptrdiff_t at = (t * N + r) * width + u;
                to[at] = from[at] * factors[t * b->factors_step + r * H + u];
            }
}

/* What the first layer reads: the batch, or of a stem what it makes of it. */
static Shape first_shape(const Network *f, const Parts *w, const Batch *b) {
    const ptrdiff_t T = b->n_segments, segment = f->segment * f->n_channels;
    const ptrdiff_t n_inputs = w->stem.values ? f->hidden_size : segment;
    const ptrdiff_t x_step = w->stem.values ? padded(n_inputs) : segment;
    return (Shape){f->cell, T, b->n_rows, 0, b->n_rows, n_inputs, f->hidden_size, x_step,
                   T * x_step, NULL, 1};
}

/* Reads windows: the stem and the layers, up to the last states. */
static void learn_states(const Network *f, const Parts *w, const Batch *b, const Room *r) {
    const ptrdiff_t H = f->hidden_size, width = padded(H), N = b->n_rows, T = b->n_segments;
    const ptrdiff_t segment = f->segment * f->n_channels, row = N * width;
    Shape s = first_shape(f, w, b);
    const float *from = b->x;
    if (w->stem.values) {
        sklstm_affine(b->x, 1, 0, N * T, segment, &w->stem, w->stem_bias, r->scratch, r->read);
        for (ptrdiff_t i = 0; i < N * T * width; i += LANES)
            store(r->read + i, rectify(load(r->read + i)));
        from = r->read;
    }
    for (ptrdiff_t i = 0; i < f->n_layers; i++) {
        float *h = r->kept + i * r->of_layer, *c = h + r->of_h, *gates = c + r->of_h;
        float *const *of = w->layers + 5 * i, *dropped = gates + r->of_gates;
        /* Few rows take room behind the weights. */
        sklstm_forward(&s, from, of[0], of[1], of[2], of[3], of[4], r->scratch,
                       r->scratch + r->n_terms * GATES * width, h, c, gates);
        from = h + row, s.n_inputs = H, s.x_step = row, s.x_row = width;
        if (b->factors && i + 1 < f->n_layers) {
            times_factors(f, b, i, from, dropped);
            from = dropped;
        }
    }
    const float *of_last = b->factors ? b->factors[f->n_layers - 1] : NULL;
    for (ptrdiff_t n = 0; n < N; n++)
        for (ptrdiff_t u = 0; u < width; u++) {
            const float x = from[(T - 1) * row + n * width + u];
            r->last[n * width + u] = of_last && u < H ? x * of_last[n * H + u] : x;
        }
}

/* Forecasts from the last states. */
static void learn_quantiles(const Network *f, const Parts *w, const Batch *b, const Room *r) {
    const ptrdiff_t width = padded(f->hidden_size), N = b->n_rows, Z = b->n_steps;
    const ptrdiff_t P = w->of_position.n_columns, L = f->n_linear;
    const ptrdiff_t of_linear = padded(f->horizon), n_values = b->n_segments * f->segment;
    const Decoder d = decoder_of(&w->decoder, b);
    sklstm_affine(r->last, 1, 0, N, width, &w->of_state, w->state_bias, r->scratch, r->state);
    for (ptrdiff_t z = 0; z < Z; z++) {
        const ptrdiff_t at = b->steps ? b->steps[z] : z;
        memcpy(r->of_position + z * P, w->position + at * P, P * sizeof(float));
        memcpy(r->shares + z * CHANGES, w->shares + at * CHANGES, CHANGES * sizeof(float));
    }
    sklstm_affine(r->of_position, 1, 0, Z, P, &w->of_position, NULL, r->scratch, r->position);
    if (L) {
        for (ptrdiff_t n = 0; n < N; n++)
            for (ptrdiff_t i = 0; i < L; i++)
                r->values[n * L + i] =
                    b->x[((n + 1) * n_values - L + i) * f->n_channels];
        sklstm_affine(r->values, 1, 0, N, L, &w->linear, NULL, r->scratch, r->linear);
        for (ptrdiff_t n = 0; n < N; n++)
            for (ptrdiff_t z = 0; z < Z; z++)
                r->of_steps[n * Z + z] =
                    r->linear[n * of_linear + (b->steps ? b->steps[z] : z)];
    }
    sklstm_lay_out_decoder(&d, w->bias, r->w_decoder);
    decode(&d, r->state, r->position, r->shares, b->known, L ? r->of_steps : NULL,
           r->w_decoder, r->hidden, r->raw, r->gaps, r->quantiles);
}

/* Back from the quantiles to the last states. */
static void return_from_quantiles(const Network *f, const Parts *w, const Parts *to,
                                  const Batch *b, const Room *r) {
    const ptrdiff_t H = f->hidden_size, width = padded(H), N = b->n_rows, Z = b->n_steps;
    const ptrdiff_t P = w->of_position.n_columns, L = f->n_linear;
    const Decoder d = decoder_of(&w->decoder, b);
    decode_backward(&d, b->known, r->hidden, r->d_quantiles, r->for_decoder, r->raw,
                    r->d_hidden, r->d_state, r->d_position, r->d_shares, r->d_median,
                    &to->decoder, to->bias);
    add_product(r->of_position, 1, 0, Z, P, r->d_position, 0, width, &to->of_position,
                r->scratch);
    copy_rows(&w->of_position, r->scratch);
    product(r->d_position, Z, width, H, r->scratch, padded(P), NULL, 0, r->d_rows);
    for (ptrdiff_t z = 0; z < Z; z++) {
        const ptrdiff_t at = b->steps ? b->steps[z] : z;
        add_rows(r->d_rows + z * padded(P), 1, 0, P, to->position + at * P);
        add_rows(r->d_shares + z * CHANGES, 1, 0, CHANGES, to->shares + at * CHANGES);
        float *of_linear = to->linear.values + at * to->linear.out;
        for (ptrdiff_t n = 0; n < N; n++)
            for (ptrdiff_t i = 0; i < L; i++)
                of_linear[i] += r->d_median[n * Z + z] * r->values[n * L + i];
    }
    add_product(r->last, 1, 0, N, width, r->d_state, 0, width, &to->of_state, r->scratch);
    add_rows(r->d_state, N, width, H, to->state_bias);
    copy_rows(&w->of_state, r->scratch);
    product(r->d_state, N, width, H, r->scratch, width, NULL, 0, r->d_last);
    const float *of_last = b->factors ? b->factors[f->n_layers - 1] : NULL;
    for (ptrdiff_t n = 0; n < N; n++)
        for (ptrdiff_t u = 0; u < H; u++)
            r->d_end[n * H + u] =
                r->d_last[n * width + u] * (of_last ? of_last[n * H + u] : 1);
}

/* Back through the layers and the stem. */
static void return_from_states(const Network *f, const Parts *w, const Parts *to,
                               const Batch *b, const Room *r) {
    const ptrdiff_t H = f->hidden_size, width = padded(H), N = b->n_rows, T = b->n_segments;
    const ptrdiff_t segment = f->segment * f->n_channels, row = N * width;
    const int has_stem = w->stem.values != NULL;
    for (ptrdiff_t i = f->n_layers - 1; i >= 0; i--) {
        float *h = r->kept + i * r->of_layer, *c = h + r->of_h, *gates = c + r->of_h;
        float *const *of = w->layers + 5 * i, *const *into = to->layers + 5 * i;
        const int is_top = i + 1 == f->n_layers;
        Shape s = first_shape(f, w, b);
        const float *x = has_stem ? r->read : b->x;
        float *d_out = is_top ? NULL : r->d_x[(i + 1) % 2];
        if (i > 0) {
            float *before = h - r->of_layer;
            x = b->factors ? before + 2 * r->of_h + r->of_gates : before + row;
            s.n_inputs = H, s.x_step = row, s.x_row = width;
        }
        if (d_out && b->factors) times_factors(f, b, i, d_out, d_out);
        sklstm_backward(&s, x, of[0], of[1], of[4], h, c, gates, d_out, row, width,
                        is_top ? r->d_end : NULL, i > 0 || has_stem ? r->d_x[i % 2] : NULL,
                        r->d_ends, r->scratch, into[0], into[1], into[2], into[3], into[4]);
    }
    if (!has_stem) return;
    float *d_read = r->d_x[0]; /* (T, N, Hp), of which read has (N, T, Hp) */
    for (ptrdiff_t t = 0; t < T; t++)
        for (ptrdiff_t n = 0; n < N; n++)
            for (ptrdiff_t u = 0; u < width; u++)
                if (!(r->read[(n * T + t) * width + u] > 0))
                    d_read[t * row + n * width + u] = 0;
    add_product(b->x, T, segment, N, T * segment, d_read, row, width, &to->stem, r->scratch);
    add_rows(d_read, T * N, width, H, to->stem_bias);
}

/* The mean loss of a batch, as far as it is that of these rows; the gradients of all weights
   are added to `to`. *size: how many numbers the arena must have; given NULL for the arena
   nothing else is done. */
double sklstm_learn(const Network *f, const Parts *w, const Parts *to, const Batch *b,
                    float *arena, ptrdiff_t *size) {
    FLUSH
    Room r;
    *size = make_room(f, w, b, arena, &r);
    if (!arena) return 0;
    learn_states(f, w, b, &r);
    learn_quantiles(f, w, b, &r);
    const double loss = pinball(b->n_rows, b->n_batch, b->n_steps, w->decoder.correction.n_out,
                                b->alpha, r.quantiles, b->target, b->weight, r.d_quantiles);
    return_from_quantiles(f, w, to, b, &r);
    return_from_states(f, w, to, b, &r);
    return loss;
}
