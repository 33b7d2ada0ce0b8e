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
typedef float vec8 __attribute__((vector_size(32)));
typedef float vec4 __attribute__((vector_size(16)));
typedef uint32_t uvec __attribute__((vector_size(64)));

static inline vec load(const float *p) { return *(const loose_vec *)p; }
static inline void store(float *p, vec v) { *(loose_vec *)p = v; }
static inline vec splat(float x) { return x - (vec){0}; }
static inline vec select_vec(ivec mask, vec yes, vec no) {
    return (vec)(((ivec)yes & mask) | ((ivec)no & ~mask));
}
static inline vec max_vec(vec a, vec b) { return select_vec(a > b, a, b); }

static inline float sum_lanes(vec v) {
    vec8 a, b;
    memcpy(&a, &v, 32);
    memcpy(&b, (const char *)&v + 32, 32);
    a += b;
    vec4 c, d;
    memcpy(&c, &a, 16);
    memcpy(&d, (const char *)&a + 16, 16);
    c += d;
    return (c[0] + c[2]) + (c[1] + c[3]);
}

static inline float max_lanes(vec v) {
    float m = v[0];
    for (int i = 1; i < LANES; i++) m = v[i] > m ? v[i] : m;
    return m;
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
