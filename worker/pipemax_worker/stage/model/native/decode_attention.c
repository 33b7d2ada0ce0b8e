/* Attention of one query token. Its time is that of reading keys and values once, so it goes through
 * the cache blocks in order, all heads of a block together, and prefetches the next block. */
#include "paged_attention.h"
#include "vectors.h"

static inline void prefetch_row(const layer_t *l, int64_t index, const int is_bfloat16) {
    const int size = is_bfloat16 ? 2 : 4;
    const char *key = (const char *)l->kv + index * size;
    const char *value = key + l->value_stride * size;
    for (int64_t byte = 0; byte < l->head_dim * size; byte += 64) {
        __builtin_prefetch(key + byte, 0, 3);
        __builtin_prefetch(value + byte, 0, 3);
    }
}

/* Scores of up to 16 keys for one query head; lanes beyond count are -inf. */
static inline __attribute__((always_inline)) vec score_keys(
    const float *query, const layer_t *l, int64_t first, int count, const int64_t dim,
    const int is_bfloat16) {
    vec scores = splat(-INFINITY);
    for (int t = 0; t < count; t++) {
        vec sum = {0};
        for (int64_t d = 0; d < dim; d += LANES)
            sum += load(query + d) * load_kv(l->kv, first + t * l->token_stride + d, is_bfloat16);
        scores[t] = sum_lanes(sum);
    }
    return scores;
}

static inline __attribute__((always_inline)) void add_values(
    float *out, vec weights, float correction, const layer_t *l, int64_t first, int count,
    const int64_t dim, const int is_bfloat16) {
    for (int64_t d0 = 0; d0 < dim; d0 += 4 * LANES) {
        vec acc[4];
        const int n = dim - d0 >= 4 * LANES ? 4 : (int)((dim - d0) / LANES);
        for (int i = 0; i < n; i++) acc[i] = load(out + d0 + i * LANES) * correction;
        for (int t = 0; t < count; t++) {
            int64_t index = first + l->value_stride + t * l->token_stride + d0;
            for (int i = 0; i < n; i++)
                acc[i] += weights[t] * load_kv(l->kv, index + i * LANES, is_bfloat16);
        }
        for (int i = 0; i < n; i++) store(out + d0 + i * LANES, acc[i]);
    }
}

/* state: per query head of the tile: scaled query [dim], running sum of values [dim], max, sum. */
static inline __attribute__((always_inline)) void decode_heads(
    const step_t *s, const layer_t *l, const int64_t *tile, const float *qkv, float *out,
    float *state, const int64_t dim, const int is_bfloat16) {
    const int64_t request = tile[0], first_head = tile[3], num_kv_heads = tile[4];
    const int64_t group = l->num_heads / l->num_kv_heads, rows = group * num_kv_heads;
    const int64_t token = s->query_starts[request] + tile[1];
    const int64_t width = (l->num_heads + 2 * l->num_kv_heads) * dim;
    const int64_t num_new = s->query_starts[request + 1] - s->query_starts[request];
    const int64_t end = s->context_lens[request] - num_new + tile[1] + 1;
    const int64_t begin = l->window > 0 && end > l->window ? end - l->window : 0;
    float *query = state, *sum = state + rows * dim, *top = sum + rows * dim, *total = top + rows;
    const float *source = qkv + token * width + first_head * group * dim;
    for (int64_t i = 0; i < rows * dim; i++) query[i] = source[i] * l->scale;
    memset(sum, 0, (size_t)(rows * dim) * sizeof(float));
    for (int64_t r = 0; r < rows; r++) top[r] = -INFINITY, total[r] = 0;

    for (int64_t position = begin; position < end;) {
        int64_t count = s->block_tokens - position % s->block_tokens;
        if (count > LANES) count = LANES;
        if (count > end - position) count = end - position;
        int64_t base = kv_index(s, l, request, position, first_head);
        int64_t next = position + count;
        int64_t ahead = next < end ? kv_index(s, l, request, next, first_head) : base;
        for (int64_t h = 0; h < num_kv_heads; h++) {
            if (next < end)
                for (int64_t t = 0; t < count; t++)
                    prefetch_row(l, ahead + t * l->token_stride + h * dim, is_bfloat16);
            for (int64_t r = h * group; r < (h + 1) * group; r++) {
                vec scores = score_keys(
                    query + r * dim, l, base + h * dim, (int)count, dim, is_bfloat16);
                float highest = max_lanes(scores);
                highest = highest > top[r] ? highest : top[r];
                float correction = expf(top[r] - highest);
                vec weights = exp_vec(scores - highest);
                top[r] = highest;
                total[r] = total[r] * correction + sum_lanes(weights);
                add_values(sum + r * dim, weights, correction, l, base + h * dim, (int)count, dim,
                           is_bfloat16);
            }
        }
        position = next;
    }
    float *target = out + (token * l->num_heads + first_head * group) * dim;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t d = 0; d < dim; d++) target[r * dim + d] = sum[r * dim + d] / total[r];
}

/* Constant dimensions let the compiler keep a head's sums in registers. */
void pipemax_decode_tile(
    const step_t *s, const layer_t *l, const int64_t *tile, const float *qkv, float *out,
    float *state) {
    if (l->kv_is_bfloat16) {
        if (l->head_dim == 64) decode_heads(s, l, tile, qkv, out, state, 64, 1);
        else if (l->head_dim == 128) decode_heads(s, l, tile, qkv, out, state, 128, 1);
        else decode_heads(s, l, tile, qkv, out, state, l->head_dim, 1);
    } else {
        if (l->head_dim == 64) decode_heads(s, l, tile, qkv, out, state, 64, 0);
        else if (l->head_dim == 128) decode_heads(s, l, tile, qkv, out, state, 128, 0);
        else decode_heads(s, l, tile, qkv, out, state, l->head_dim, 0);
    }
}

