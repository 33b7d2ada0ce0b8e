/* Copies KV slots between two tiers in plain memory: a whole job in one call, since Python would
 * give up and take back its lock for each slot. */

#include <stdint.h>
#include <string.h>

void pipemax_copy_rows(char *target, const char *source, const int32_t *target_slots,
                       const int32_t *source_slots, int64_t num_rows, int64_t row_bytes) {
  for (int64_t i = 0; i < num_rows; i++)
    memcpy(target + target_slots[i] * row_bytes, source + source_slots[i] * row_bytes,
           (size_t)row_bytes);
}
