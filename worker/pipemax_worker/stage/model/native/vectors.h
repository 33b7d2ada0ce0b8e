/* Vectors of 16 floats in GCC's generic form, which the compiler maps to whatever the machine has
 * (AVX-512, AVX2, NEON). No -ffast-math anywhere: masked scores are -inf, and sums are reordered
 * only where it is written so. */
#ifndef PIPEMAX_VECTORS_H
#define PIPEMAX_VECTORS_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#define LANES 16

typedef float vec __attribute__((vector_size(64)));
typedef int32_t ivec __attribute__((vector_size(64)));
typedef float loose_vec __attribute__((vector_size(64), aligned(4), may_alias));
typedef uint16_t half_vec __attribute__((vector_size(32), aligned(2), may_alias));
typedef uint32_t uvec __attribute__((vector_size(64)));

static inline vec load(const float *p) { return *(const loose_vec *)p; }
static inline void store(float *p, vec v) { *(loose_vec *)p = v; }
static inline vec splat(float x) { return x - (vec){0}; }
static inline vec select_vec(ivec mask, vec yes, vec no) {
    return (vec)(((ivec)yes & mask) | ((ivec)no & ~mask));
}
static inline vec max_vec(vec a, vec b) { return select_vec(a > b, a, b); }

#if defined(__clang__)
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (ivec){__VA_ARGS__})
#endif

/* The sums of 16 vectors' lanes as one vector: 15 pairwise turns in place of 64 additions. */
static inline vec sum_each(vec v[LANES]) {
    for (int i = 0; i < 8; i++)
        v[i] = SHUFFLE(v[2 * i], v[2 * i + 1], 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22,
                       23)
            + SHUFFLE(v[2 * i], v[2 * i + 1], 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29,
                      30, 31);
    for (int i = 0; i < 4; i++)
        v[i] = SHUFFLE(v[2 * i], v[2 * i + 1], 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26,
                       27)
            + SHUFFLE(v[2 * i], v[2 * i + 1], 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29,
                      30, 31);
    for (int i = 0; i < 2; i++)
        v[i] = SHUFFLE(v[2 * i], v[2 * i + 1], 0, 1, 4, 5, 8, 9, 12, 13, 16, 17, 20, 21, 24, 25, 28,
                       29)
            + SHUFFLE(v[2 * i], v[2 * i + 1], 2, 3, 6, 7, 10, 11, 14, 15, 18, 19, 22, 23, 26, 27,
                      30, 31);
    return SHUFFLE(v[0], v[1], 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30)
        + SHUFFLE(v[0], v[1], 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
}

/* The vector with its halves, then quarters, ... exchanged: FOLD(v, op) leaves the result in all
 * lanes. */
#define FOLD(v, op)                                                                               \
    v = op(v, SHUFFLE(v, v, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7));               \
    v = op(v, SHUFFLE(v, v, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11));               \
    v = op(v, SHUFFLE(v, v, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13));               \
    v = op(v, SHUFFLE(v, v, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14));

static inline vec add_vec(vec a, vec b) { return a + b; }

static inline float sum_lanes(vec v) {
    FOLD(v, add_vec)
    return v[0];
}

static inline float max_lanes(vec v) {
    FOLD(v, max_vec)
    return v[0];
}

/* e^x to about 1 ulp (Cephes' expf); 0 below -87, clamped above 88. */
static inline vec exp_vec(vec x) {
    const float magic = 12582912.0f; /* 1.5 * 2^23: adding it rounds to an integer */
    ivec tiny = x < splat(-87.0f);
    x = select_vec(x > splat(88.0f), splat(88.0f), select_vec(tiny, splat(-87.0f), x));
    vec shifted = x * 1.44269504088896341f + magic;
    vec n = shifted - magic;
    vec r = x - n * 0.693359375f;
    r = r + n * 2.12194440e-4f;
    vec p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    ivec exponent = ((ivec)shifted - (ivec)splat(magic) + 127) << 23;
    return select_vec(tiny, splat(0.0f), p * (vec)exponent);
}

static inline vec load_kv(const void *p, int64_t index, const int is_bfloat16) {
    if (!is_bfloat16) return load((const float *)p + index);
    half_vec raw = *(const half_vec *)((const uint16_t *)p + index);
    return (vec)(__builtin_convertvector(raw, uvec) << 16);
}

#endif
