/* Products of int8 vectors of ARM: by matrices of eight numbers (i8mm), or by words of four (dotprod). */
#if defined(ARM_TILES)
#include <arm_neon.h>

/* Sums in 24 of 32 registers. */
enum { ROWS = 8, COLUMNS = 12, STEP = 64, LEFT_WIDTH = ROWS, RIGHT_WIDTH = COLUMNS, LEAVES = 1 };
#if defined(__ARM_FEATURE_MATMUL_INT8)
enum { LEFT_GROUP = 8, RIGHT_GROUP = 8 };
#else
enum { LEFT_GROUP = 4, RIGHT_GROUP = 4 };
#endif
static const int64_t cached_bytes = 1 << 18;

const char *instructions(void) {
#if defined(__ARM_FEATURE_MATMUL_INT8)
    return "i8mm";
#else
    return "dot products";
#endif
}

static void open_tiles(void) {}

static void close_tiles(void) {}

static inline void stream_row(const float *row, float *to) { memcpy(to, row, sizeof *row * COLUMNS); }

static void tile(const int8_t *left, const int8_t *right, int64_t steps, int32_t *sums, leaving *out) {
#if defined(__ARM_FEATURE_MATMUL_INT8)
    int32x4_t parts[ROWS / 2][COLUMNS / 2]; /* two rows of two sums */
    memset(parts, 0, sizeof parts);
    for (int64_t k = 0; k < steps * STEP; k += 8, left += ROWS * 8, right += COLUMNS * 8) {
        int8x16_t a[ROWS / 2];
#pragma GCC unroll 16
        for (int i = 0; i < ROWS / 2; i++) a[i] = vld1q_s8(left + 16 * i);
#pragma GCC unroll 16
        for (int j = 0; j < COLUMNS / 2; j++) {
            int8x16_t b = vld1q_s8(right + 16 * j);
#pragma GCC unroll 16
            for (int i = 0; i < ROWS / 2; i++) parts[i][j] = vmmlaq_s32(parts[i][j], a[i], b);
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < ROWS / 2; i++, sums += 2 * COLUMNS)
#pragma GCC unroll 16
        for (int j = 0; j < COLUMNS / 2; j++) {
            vst1_s32(sums + 2 * j, vget_low_s32(parts[i][j]));
            vst1_s32(sums + COLUMNS + 2 * j, vget_high_s32(parts[i][j]));
        }
#else
    int32x4_t parts[ROWS][COLUMNS / 4];
    memset(parts, 0, sizeof parts);
    for (int64_t k = 0; k < steps * STEP; k += 4, left += ROWS * 4, right += COLUMNS * 4) {
        int8x16_t upper = vld1q_s8(left), lower = vld1q_s8(left + 16);
#pragma GCC unroll 16
        for (int j = 0; j < COLUMNS / 4; j++) {
            int8x16_t b = vld1q_s8(right + 16 * j);
            parts[0][j] = vdotq_laneq_s32(parts[0][j], b, upper, 0);
            parts[1][j] = vdotq_laneq_s32(parts[1][j], b, upper, 1);
            parts[2][j] = vdotq_laneq_s32(parts[2][j], b, upper, 2);
            parts[3][j] = vdotq_laneq_s32(parts[3][j], b, upper, 3);
            parts[4][j] = vdotq_laneq_s32(parts[4][j], b, lower, 0);
            parts[5][j] = vdotq_laneq_s32(parts[5][j], b, lower, 1);
            parts[6][j] = vdotq_laneq_s32(parts[6][j], b, lower, 2);
            parts[7][j] = vdotq_laneq_s32(parts[7][j], b, lower, 3);
        }
    }
    memcpy(sums, parts, sizeof parts);
#endif
}
#endif
