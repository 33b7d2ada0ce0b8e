/* Attention of many query tokens for one KV head. The queries lie across the lanes, so keys and
 * values are used straight from the cache blocks, one broadcast element at a time, without
 * repacking, and are read once for up to 64 query rows. */
#include "paged_attention.h"
#include "vectors.h"

#define MAX_VECTORS (MAX_ROWS / LANES)

/* target[i][rows] += sum over k of element(i, k) * right[k][rows], for four i at once. The sums stay
 * in registers: vectors is a constant wherever this is expanded. */
#define OUTER_PRODUCTS(vectors, num_k, element, right)                          \
    vec acc[4][MAX_VECTORS], b[MAX_VECTORS];                                    \
    EACH(i, 4) EACH(v, vectors) acc[i][v] = load(target[i] + v * LANES);        \
    for (int64_t k = 0; k < (num_k); k++) {                                     \
        EACH(v, vectors) b[v] = load((right) + k * stride + v * LANES);         \
        EACH(i, 4) EACH(v, vectors) acc[i][v] += (element) * b[v];              \
    }                                                                           \
    EACH(i, 4) EACH(v, vectors) store(target[i] + v * LANES, acc[i][v]);

#define EACH(i, n) _Pragma("GCC unroll 4") for (int i = 0; i < (n); i++)

static inline __attribute__((always_inline)) void score_tile(
    chunk_t *c, int64_t dim, int count, const int vectors) {
    const int64_t stride = vectors * LANES;
    memset(c->scores, 0, sizeof(float) * KEY_TILE * (size_t)stride);
    for (int t = 0; t < count; t += 4) {
        float *target[4];
        const float *key[4];
        for (int i = 0; i < 4; i++) {
            target[i] = c->scores + (t + i) * stride;
            key[i] = c->keys[t + i < count ? t + i : count - 1];
        }
        OUTER_PRODUCTS(vectors, dim, key[i][k], c->query)
    }
}

static inline __attribute__((always_inline)) void add_value_tile(
    chunk_t *c, int64_t dim, int count, const int vectors) {
    const int64_t stride = vectors * LANES;
    for (int64_t d = 0; d < dim; d += 4) {
        float *target[4];
        for (int i = 0; i < 4; i++) target[i] = c->sum + (d + i) * stride;
        OUTER_PRODUCTS(vectors, count, c->values[k][d + i], c->scores)
    }
}

/* Mask, then one turn of the online softmax; scores become weights. */
static inline __attribute__((always_inline)) void softmax_tile(
    chunk_t *c, int64_t dim, int32_t first_key, int count, int64_t window, const int vectors) {
    const int64_t stride = vectors * LANES;
    for (int v = 0; v < vectors; v++) {
        ivec position;
        memcpy(&position, c->position + v * LANES, sizeof position);
        ivec lowest = window > 0 ? position - (int32_t)window : (ivec){0} - 1;
        vec old = load(c->top + v * LANES), highest = old;
        for (int t = 0; t < count; t++) {
            float *score = c->scores + t * stride + v * LANES;
            ivec key = (ivec){0} + (first_key + t);
            vec masked = select_vec((key <= position) & (key > lowest), load(score),
                                    splat(-INFINITY));
            store(score, masked);
            highest = max_vec(masked, highest);
        }
        /* A row that has seen no key yet: its maximum is -inf, and -inf minus -inf is NaN. */
        vec base = select_vec(highest == splat(-INFINITY), splat(0.0f), highest);
        vec correction = exp_vec(old - base), total = load(c->total + v * LANES) * correction;
        for (int t = 0; t < count; t++) {
            float *score = c->scores + t * stride + v * LANES;
            vec weight = exp_vec(load(score) - base);
            store(score, weight);
            total += weight;
        }
        for (int64_t d = 0; d < dim; d++) {
            float *sum = c->sum + d * stride + v * LANES;
            store(sum, load(sum) * correction);
        }
        store(c->top + v * LANES, highest);
        store(c->total + v * LANES, total);
    }
}

static void collect_keys(
    const step_t *s, const layer_t *l, chunk_t *c, int64_t request, int64_t head, int64_t first,
    int count) {
    for (int t = 0; t < count; t++) {
        int64_t index = kv_index(s, l, request, first + t, head);
        if (!l->kv_is_bfloat16) {
            c->keys[t] = (const float *)l->kv + index;
            c->values[t] = c->keys[t] + l->value_stride;
            continue;
        }
        const uint16_t *raw[2] = {(const uint16_t *)l->kv + index,
                                  (const uint16_t *)l->kv + index + l->value_stride};
        for (int side = 0; side < 2; side++)
            for (int64_t d = 0; d < l->head_dim; d++) {
                uint32_t bits = (uint32_t)raw[side][d] << 16;
                memcpy(&c->converted[side][t][d], &bits, 4);
            }
        c->keys[t] = c->converted[0][t];
        c->values[t] = c->converted[1][t];
    }
}

static inline __attribute__((always_inline)) void chunk_rows(
    const step_t *s, const layer_t *l, const int64_t *tile, const float *qkv, float *out,
    chunk_t *c, const int vectors) {
    const int64_t request = tile[0], head = tile[3], dim = l->head_dim;
    const int64_t group = l->num_heads / l->num_kv_heads, rows = tile[2] * group;
    const int64_t stride = vectors * LANES;
    const int64_t first_token = s->query_starts[request] + tile[1];
    const int64_t width = (l->num_heads + 2 * l->num_kv_heads) * dim;
    const int64_t num_new = s->query_starts[request + 1] - s->query_starts[request];
    const int64_t first_position = s->context_lens[request] - num_new + tile[1];
    for (int64_t r = 0; r < stride; r++) {
        int64_t token = r / group < tile[2] ? r / group : tile[2] - 1;
        const float *source = qkv + (first_token + token) * width + (head * group + r % group) * dim;
        for (int64_t d = 0; d < dim; d++)
            c->query[d * stride + r] = r < rows ? source[d] * l->scale : 0.0f;
        c->position[r] = (int32_t)(first_position + token);
        c->top[r] = -INFINITY;
        c->total[r] = 0;
    }
    memset(c->sum, 0, sizeof(float) * (size_t)(dim * stride));
    const int64_t end = first_position + tile[2];
    int64_t begin = l->window > 0 && first_position >= l->window
        ? first_position - l->window + 1 : 0;
    for (int64_t key = begin; key < end; key += KEY_TILE) {
        int count = (int)(end - key < KEY_TILE ? end - key : KEY_TILE);
        collect_keys(s, l, c, request, head, key, count);
        score_tile(c, dim, count, vectors);
        softmax_tile(c, dim, (int32_t)key, count, l->window, vectors);
        add_value_tile(c, dim, count, vectors);
    }
    for (int64_t r = 0; r < rows; r++) {
        float *target = out
            + ((first_token + r / group) * l->num_heads + head * group + r % group) * dim;
        for (int64_t d = 0; d < dim; d++) target[d] = c->sum[d * stride + r] / c->total[r];
    }
}

void pipemax_chunk_tile(
    const step_t *s, const layer_t *l, const int64_t *tile, const float *qkv, float *out,
    chunk_t *c) {
    int64_t rows = tile[2] * (l->num_heads / l->num_kv_heads);
    if (rows <= LANES) chunk_rows(s, l, tile, qkv, out, c, 1);
    else if (rows <= 2 * LANES) chunk_rows(s, l, tile, qkv, out, c, 2);
    else if (rows <= 3 * LANES) chunk_rows(s, l, tile, qkv, out, c, 3);
    else chunk_rows(s, l, tile, qkv, out, c, 4);
}

