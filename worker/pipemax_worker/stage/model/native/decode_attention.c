/* Attention of one query token. Its time is that of reading keys and values once, so it goes through
 * the cache blocks in order, all heads of a block together, and prefetches the next block. */
#include <stddef.h>

#include "paged_attention.h"
#include "vectors.h"

#define RUN_KEYS 256 /* keys handled between two updates of the running maximum */
#define ALWAYS_INLINE static inline __attribute__((always_inline))

/* What a thread keeps of one tile; one row for each of its query heads. */
typedef struct {
    float *query;  /* [rows][dim], scaled */
    float *sum;    /* [rows][dim] of weighted values */
    float *scores; /* [rows][RUN_KEYS] */
    float *top, *total;
    int64_t rows, group, num_kv_heads;
} decode_t;

/* Up to 16 keys of one block that follow each other. */
typedef struct {
    int64_t first; /* element where the first key of the tile's first head begins */
    int count;
} piece_t;

/* Into the second-level cache: prefetches into the first one stall on its few miss buffers (6.2
 * against 9.7 GB/s of scattered KV on one Zen 4 core, 4.7 without any). */
ALWAYS_INLINE void prefetch_row(const void *kv, int64_t index, int64_t dim, const int is_bfloat16) {
    const int size = is_bfloat16 ? 2 : 4;
    for (int64_t byte = 0; byte < dim * size; byte += 64)
        __builtin_prefetch((const char *)kv + index * size + byte, 0, 2);
}

/* Scores of up to 16 keys for one query head; lanes beyond count are -inf. While it computes, it
 * asks for the rows at ahead. */
ALWAYS_INLINE vec score_keys(const float *query, const layer_t *l, int64_t first, int count,
                             int64_t ahead, const int64_t dim, const int is_bfloat16) {
    const ivec lanes = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    vec products[LANES];
    for (int t = 0; t < LANES; t++) {
        /* Lanes without a key repeat the last one: no branch, nothing read beyond the block. */
        int64_t key = first + (t < count ? t : count - 1) * l->token_stride;
        vec sum = {0};
        if (ahead >= 0) prefetch_row(l->kv, ahead + t * l->token_stride, dim, is_bfloat16);
        for (int64_t d = 0; d < dim; d += LANES)
            sum += load(query + d) * load_kv(l->kv, key + d, is_bfloat16);
        products[t] = sum;
    }
    return select_vec(lanes < count, sum_each(products), splat(-INFINITY));
}

/* out [dim] += the values of up to 16 keys, weighted. */
ALWAYS_INLINE void add_values(float *out, const float *weights, const layer_t *l, int64_t first,
                              int count, int64_t ahead, const int64_t dim, const int is_bfloat16) {
    for (int64_t d0 = 0; d0 < dim; d0 += 4 * LANES) {
        const int n = dim - d0 >= 4 * LANES ? 4 : (int)((dim - d0) / LANES);
        vec acc[4];
        for (int i = 0; i < n; i++) acc[i] = load(out + d0 + i * LANES);
        for (int t = 0; t < count; t++) {
            int64_t index = first + t * l->token_stride + d0;
            if (ahead >= 0 && d0 == 0)
                prefetch_row(l->kv, ahead + t * l->token_stride, dim, is_bfloat16);
            for (int i = 0; i < n; i++)
                acc[i] += weights[t] * load_kv(l->kv, index + i * LANES, is_bfloat16);
        }
        for (int i = 0; i < n; i++) store(out + d0 + i * LANES, acc[i]);
    }
}

/* Cuts the keys from position on into pieces, one run of RUN_KEYS lanes at most. */
static int cut_run(const step_t *s, const layer_t *l, const int64_t *tile, int64_t *position,
                   int64_t end, piece_t *pieces) {
    int n = 0;
    for (; *position < end && n < RUN_KEYS / LANES; n++) {
        int64_t count = s->block_tokens - *position % s->block_tokens;
        if (count > LANES) count = LANES;
        if (count > end - *position) count = end - *position;
        pieces[n].first = kv_index(s, l, tile[0], *position, tile[3]);
        pieces[n].count = (int)count;
        *position += count;
    }
    return n;
}

/* One turn of the online softmax over num_vectors of scores, which become weights. */
ALWAYS_INLINE void weigh(decode_t *d, int64_t row, int num_vectors, const int64_t dim) {
    float *scores = d->scores + row * RUN_KEYS;
    vec highest = splat(d->top[row]);
    for (int i = 0; i < num_vectors; i++) highest = max_vec(load(scores + i * LANES), highest);
    const float top = max_lanes(highest), correction = expf(d->top[row] - top);
    vec total = {0};
    for (int i = 0; i < num_vectors; i++) {
        vec weights = exp_vec(load(scores + i * LANES) - top);
        store(scores + i * LANES, weights);
        total += weights;
    }
    d->total[row] = d->total[row] * correction + sum_lanes(total);
    d->top[row] = top;
    for (int64_t i = 0; i < dim; i++) d->sum[row * dim + i] *= correction;
}

ALWAYS_INLINE void attend_run(const layer_t *l, decode_t *d, const piece_t *pieces, int n,
                              const int64_t dim, const int is_bfloat16) {
    for (int p = 0; p < n; p++)
        for (int64_t h = 0; h < d->num_kv_heads; h++)
            for (int64_t r = h * d->group; r < (h + 1) * d->group; r++) {
                /* After the last keys come the first values. */
                int64_t next = p + 1 < n ? pieces[p + 1].first : pieces[0].first + l->value_stride;
                int64_t ahead = r == h * d->group ? next + h * dim : -1;
                store(d->scores + r * RUN_KEYS + p * LANES,
                      score_keys(d->query + r * dim, l, pieces[p].first + h * dim, pieces[p].count,
                                 ahead, dim, is_bfloat16));
            }
    for (int64_t r = 0; r < d->rows; r++) weigh(d, r, n, dim);
    for (int p = 0; p < n; p++)
        for (int64_t h = 0; h < d->num_kv_heads; h++)
            for (int64_t r = h * d->group; r < (h + 1) * d->group; r++) {
                int64_t first = pieces[p].first + l->value_stride + h * dim;
                int64_t ahead = p + 1 < n && r == h * d->group
                    ? pieces[p + 1].first + l->value_stride + h * dim : -1;
                add_values(d->sum + r * dim, d->scores + r * RUN_KEYS + p * LANES, l, first,
                           pieces[p].count, ahead, dim, is_bfloat16);
            }
}

static decode_t lay_out(const layer_t *l, const int64_t *tile, float *scratch) {
    decode_t d;
    d.num_kv_heads = tile[4];
    d.group = l->num_heads / l->num_kv_heads;
    d.rows = d.group * d.num_kv_heads;
    d.query = scratch;
    d.sum = d.query + d.rows * l->head_dim;
    d.scores = d.sum + d.rows * l->head_dim;
    d.top = d.scores + d.rows * RUN_KEYS;
    d.total = d.top + d.rows;
    return d;
}

size_t pipemax_decode_scratch_floats(const layer_t *l) {
    return (size_t)(l->num_heads * (2 * l->head_dim + RUN_KEYS + 2));
}

ALWAYS_INLINE void decode_heads(const step_t *s, const layer_t *l, const int64_t *tile,
                                const float *qkv, float *out, float *scratch, const int64_t dim,
                                const int is_bfloat16) {
    decode_t d = lay_out(l, tile, scratch);
    const int64_t token = s->query_starts[tile[0]] + tile[1], first_row = tile[3] * d.group;
    const int64_t num_new = s->query_starts[tile[0] + 1] - s->query_starts[tile[0]];
    const int64_t end = s->context_lens[tile[0]] - num_new + tile[1] + 1;
    const float *source = qkv + (token * (l->num_heads + 2 * l->num_kv_heads) + first_row) * dim;
    for (int64_t i = 0; i < d.rows * dim; i++) d.query[i] = source[i] * l->scale;
    memset(d.sum, 0, (size_t)(d.rows * dim) * sizeof(float));
    for (int64_t r = 0; r < d.rows; r++) d.top[r] = -INFINITY, d.total[r] = 0;

    int64_t position = l->window > 0 && end > l->window ? end - l->window : 0;
    while (position < end) {
        piece_t pieces[RUN_KEYS / LANES];
        int n = cut_run(s, l, tile, &position, end, pieces);
        attend_run(l, &d, pieces, n, dim, is_bfloat16);
    }
    float *target = out + (token * l->num_heads + first_row) * dim;
    for (int64_t r = 0; r < d.rows; r++)
        for (int64_t i = 0; i < dim; i++) target[r * dim + i] = d.sum[r * dim + i] / d.total[r];
}

/* Constant dimensions let the compiler keep a head's sums in registers. */
void pipemax_decode_tile(
    const step_t *s, const layer_t *l, const int64_t *tile, const float *qkv, float *out,
    float *scratch) {
    if (l->kv_is_bfloat16) {
        if (l->head_dim == 64) decode_heads(s, l, tile, qkv, out, scratch, 64, 1);
        else if (l->head_dim == 128) decode_heads(s, l, tile, qkv, out, scratch, 128, 1);
        else decode_heads(s, l, tile, qkv, out, scratch, l->head_dim, 1);
    } else {
        if (l->head_dim == 64) decode_heads(s, l, tile, qkv, out, scratch, 64, 0);
        else if (l->head_dim == 128) decode_heads(s, l, tile, qkv, out, scratch, 128, 0);
        else decode_heads(s, l, tile, qkv, out, scratch, l->head_dim, 0);
    }
}

