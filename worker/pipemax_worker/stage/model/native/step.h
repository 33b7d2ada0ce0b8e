/* What one step and one layer hand to the kernels, and where a token's KV lies. The structs mirror
 * those of native/kernels.py, field by field. */
#ifndef PIPEMAX_STEP_H
#define PIPEMAX_STEP_H

#include <stdint.h>

/* One micro-batch; the fields are those of stage.batch.Batch. */
typedef struct {
    int64_t num_tokens, block_tokens, num_threads, num_tiles;
    const int64_t *slots, *offsets, *query_starts, *context_lens, *table_starts, *block_tables;
    const int64_t *tiles; /* [num_tiles][5]: request, first query, queries, first KV head, heads */
    const float *cosines, *sines; /* [num_tokens][head_dim / 2] */
    char *scratch;                /* [num_threads][scratch_bytes], aligned to 64 */
} step_t;

/* One layer's attention. Strides are in elements of the KV dtype. */
typedef struct {
    int64_t num_heads, num_kv_heads, head_dim, window, kv_is_bfloat16;
    int64_t slot_stride, value_stride, token_stride;
    void *kv;
    const float *query_norm, *key_norm;
    float eps, scale;
} layer_t;

/* Where a token's key (or, at + value_stride, its value) of one KV head begins, in elements. */
static inline int64_t kv_index(
    const step_t *s, const layer_t *l, int64_t request, int64_t position, int64_t head) {
    int64_t slot = s->block_tables[s->table_starts[request] + position / s->block_tokens];
    return slot * l->slot_stride + position % s->block_tokens * l->token_stride
        + head * l->head_dim;
}

#endif
