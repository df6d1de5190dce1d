/* Tiles of products of int8, which int8.c takes from one of these: AMX, ARM's vectors, or plain C. Each brings

   ROWS, COLUMNS    of a panel of the left and of the right, and STEP numbers along the sum that make a run of it
   LEFT_WIDTH, RIGHT_WIDTH    rows of a panel that lie together; LEFT_GROUP, RIGHT_GROUP    numbers of a row that do
   open_tiles, close_tiles    before and after a thread's tiles
   stream_row    writes COLUMNS results, past the caches where it can
   tile    sums[ROWS][COLUMNS] = the product of `steps` runs of one plane of a panel of each side, within -128..127

   Panels hold, for every plane, runs: [run][part of LEFT_WIDTH or RIGHT_WIDTH rows][group][row][number of the group].
   While a tile forms, LEAVES times a step, `leave_some` may write rows of the one before; what is left goes after. */
typedef struct leaving leaving;
static void leave_some(leaving *out);

#if defined(PORTABLE_TILES) /* which tests define */
#elif defined(__AMX_INT8__) || defined(__AMXINT8__)
#define AMX_TILES
#elif defined(__ARM_FEATURE_MATMUL_INT8) || defined(__ARM_FEATURE_DOTPROD)
#define ARM_TILES
#endif

#if !defined(AMX_TILES) && !defined(ARM_TILES)
/* As tiles of AMX. */
enum {
    ROWS = 32, COLUMNS = 32, STEP = 64, LEAVES = 1,
    LEFT_WIDTH = 16, RIGHT_WIDTH = 16, LEFT_GROUP = 64, RIGHT_GROUP = 4,
};
static const int64_t cached_bytes = 1 << 20;

const char *instructions(void) { return 0; }

static void open_tiles(void) {}

static void close_tiles(void) {}

static inline void stream_row(const float *row, float *to) { memcpy(to, row, sizeof *row * COLUMNS); }

static void tile(const int8_t *left, const int8_t *right, int64_t steps, int32_t *sums, leaving *out) {
    memset(sums, 0, sizeof *sums * ROWS * COLUMNS);
    for (; steps > 0; steps--, left += ROWS * STEP, right += COLUMNS * STEP)
        for (int k = 0; k < STEP; k += RIGHT_GROUP)
            for (int i = 0; i < ROWS; i++)
                for (int j = 0; j < COLUMNS; j++) {
                    const int8_t *a = left + i * STEP + k;
                    const int8_t *b = right + j / 16 * 16 * STEP + (k / RIGHT_GROUP * 16 + j % 16) * RIGHT_GROUP;
                    for (int n = 0; n < RIGHT_GROUP; n++) sums[i * COLUMNS + j] += a[n] * b[n];
                }
}
#endif
