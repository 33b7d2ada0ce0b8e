/* Paged attention on CPUs: float32 activations, float32 or bfloat16 KV.
 *
 * FlashAttention's online softmax (arXiv 2205.14135) over paged KV (arXiv 2309.06180), in two forms:
 * decode_attention.c for one query token, chunk_attention.c for many. Tiles are independent; the
 * caller lays them out, longest first. */
#include "paged_attention.h"

#include <omp.h>

#include "vectors.h"

static size_t scratch_bytes(const layer_t *l) {
    size_t decode = pipemax_decode_scratch_floats(l) * sizeof(float);
    size_t bytes = decode > sizeof(chunk_t) ? decode : sizeof(chunk_t);
    return (bytes + 63) / 64 * 64;
}

/* Bytes of scratch space that one thread needs. */
int64_t pipemax_scratch_bytes(const layer_t *l) { return (int64_t)scratch_bytes(l); }

/* qkv [num_tokens][heads + 2 KV heads][head_dim], rotated; out [num_tokens][heads][head_dim]. */
void pipemax_attention(const step_t *s, const layer_t *l, const float *qkv, float *out) {
#pragma omp parallel num_threads((int)s->num_threads) if (s->num_tiles > 1)
    {
        void *scratch = s->scratch + (size_t)omp_get_thread_num() * scratch_bytes(l);
#pragma omp for schedule(dynamic, 1)
        for (int64_t i = 0; i < s->num_tiles; i++) {
            const int64_t *tile = s->tiles + 5 * i;
            if (tile[2] == 1 && l->head_dim % LANES == 0)
                pipemax_decode_tile(s, l, tile, qkv, out, scratch);
            else
                for (int64_t h = tile[3]; h < tile[3] + tile[4]; h++) {
                    int64_t one[5] = {tile[0], tile[1], tile[2], h, 1};
                    pipemax_chunk_tile(s, l, one, qkv, out, scratch);
                }
        }
    }
}
