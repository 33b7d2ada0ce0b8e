/* What surrounds attention in a layer: RMSNorm, RoPE with the append to the KV cache, SiLU times up.
 * In float32, row by row, as transformers computes them. */
#include <stddef.h>

#include "step.h"
#include "vectors.h"

static inline uint16_t to_bfloat16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    if ((bits & 0x7fffffff) > 0x7f800000) return (uint16_t)((bits >> 16) | 0x40); /* NaN */
    return (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16); /* to nearest even */
}

static inline float inverse_rms(const float *x, int64_t n, float eps) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++) sum += x[i] * x[i];
    return 1.0f / sqrtf(sum / (float)n + eps);
}

static inline void rotate_head(
    float *x, const float *norm, float eps, const float *cosines, const float *sines, int64_t dim) {
    const int64_t half = dim / 2;
    if (norm != NULL) {
        float scale = inverse_rms(x, dim, eps);
        for (int64_t d = 0; d < dim; d++) x[d] = norm[d] * (x[d] * scale);
    }
    for (int64_t d = 0; d < half; d++) {
        float a = x[d], b = x[d + half];
        x[d] = a * cosines[d] - b * sines[d];
        x[d + half] = b * cosines[d] + a * sines[d];
    }
}

static inline void append(const layer_t *l, int64_t index, const float *x, int64_t n) {
    if (!l->kv_is_bfloat16) {
        memcpy((float *)l->kv + index, x, (size_t)n * sizeof(float));
        return;
    }
    for (int64_t i = 0; i < n; i++) ((uint16_t *)l->kv)[index + i] = to_bfloat16(x[i]);
}

/* Normalises (where the model does) and rotates queries and keys in place, then writes keys and
 * values to their slots. */
void pipemax_rotate_and_append(const step_t *s, const layer_t *l, float *qkv) {
    const int64_t dim = l->head_dim, heads = l->num_heads, kv_heads = l->num_kv_heads;
#pragma omp parallel for num_threads((int)s->num_threads) if (s->num_tokens > 4)
    for (int64_t token = 0; token < s->num_tokens; token++) {
        float *row = qkv + token * (heads + 2 * kv_heads) * dim, *keys = row + heads * dim;
        const float *cosines = s->cosines + token * (dim / 2);
        const float *sines = s->sines + token * (dim / 2);
        for (int64_t h = 0; h < heads + kv_heads; h++)
            rotate_head(row + h * dim, h < heads ? l->query_norm : l->key_norm, l->eps, cosines,
                        sines, dim);
        int64_t index = s->slots[token] * l->slot_stride + s->offsets[token] * l->token_stride;
        append(l, index, keys, kv_heads * dim);
        append(l, index + l->value_stride, keys + kv_heads * dim, kv_heads * dim);
    }
}

void pipemax_rms_norm(float *out, const float *x, const float *weight, float eps, int64_t rows,
                      int64_t width, int64_t num_threads) {
#pragma omp parallel for num_threads((int)num_threads) if (rows > 4)
    for (int64_t r = 0; r < rows; r++) {
        const float *source = x + r * width;
        float *target = out + r * width, scale = inverse_rms(source, width, eps);
        for (int64_t i = 0; i < width; i++) target[i] = weight[i] * (source[i] * scale);
    }
}

static inline vec silu_times(vec gate, vec up) {
    return gate / (1.0f + exp_vec(-gate)) * up;
}

/* gate_up [rows][2 width]: gates, then ups; out [rows][width]. */
void pipemax_silu_and_multiply(float *out, const float *gate_up, int64_t rows, int64_t width,
                               int64_t num_threads) {
#pragma omp parallel for num_threads((int)num_threads) if (rows > 1)
    for (int64_t r = 0; r < rows; r++) {
        const float *gate = gate_up + r * 2 * width, *up = gate + width;
        float *target = out + r * width;
        int64_t i = 0;
        for (; i + LANES <= width; i += LANES)
            store(target + i, silu_times(load(gate + i), load(up + i)));
        if (i < width) {
            float last[3][LANES] = {{0}};
            size_t bytes = (size_t)(width - i) * sizeof(float);
            memcpy(last[0], gate + i, bytes);
            memcpy(last[1], up + i, bytes);
            store(last[2], silu_times(load(last[0]), load(last[1])));
            memcpy(target + i, last[2], bytes);
        }
    }
}
