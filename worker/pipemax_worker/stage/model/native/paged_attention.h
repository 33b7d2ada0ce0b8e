#ifndef PIPEMAX_PAGED_ATTENTION_H
#define PIPEMAX_PAGED_ATTENTION_H

#include <stddef.h>

#include "step.h"

#define MAX_ROWS 64     /* query rows of a chunk tile: tokens times heads of one KV head */
#define KEY_TILE 64     /* keys handled between two updates of the running maximum */
#define MAX_HEAD_DIM 256

/* Scratch space of one thread for a chunk tile. Keys are the outer dimension of scores. */
typedef struct {
    float query[MAX_HEAD_DIM * MAX_ROWS]; /* [head_dim][rows], scaled */
    float sum[MAX_HEAD_DIM * MAX_ROWS];   /* [head_dim][rows] */
    float scores[KEY_TILE * MAX_ROWS];    /* [keys][rows] */
    float top[MAX_ROWS], total[MAX_ROWS];
    int32_t position[MAX_ROWS]; /* of each row's query token */
    const float *keys[KEY_TILE], *values[KEY_TILE];
    float converted[2][KEY_TILE][MAX_HEAD_DIM]; /* bfloat16 keys and values as float32 */
} chunk_t;

void pipemax_decode_tile(const step_t *s, const layer_t *l, const int64_t *tile, const float *qkv,
                         float *out, float *scratch);
size_t pipemax_decode_scratch_floats(const layer_t *l);
void pipemax_chunk_tile(const step_t *s, const layer_t *l, const int64_t *tile, const float *qkv,
                        float *out, chunk_t *c);

#endif
