/* Tiles of Intel's AMX. */
#if defined(AMX_TILES)
#include <immintrin.h>

/* Four tiles of 16 x 16 sums: each tile of an operand is loaded once for two products. */
enum { ROWS = 32, COLUMNS = 32, STEP = 64, LEFT_GROUP = 64, RIGHT_GROUP = 4 };
#if defined(__AVX512BW__) /* which every processor with AMX has, and an emulated one may lack */
#define WIDE_PACKING
enum { LEFT_WIDTH = 32, RIGHT_WIDTH = 32 };
#else
enum { LEFT_WIDTH = 16, RIGHT_WIDTH = 16 };
#endif
/* Half of the second cache level; a panel of columns takes a part of the other. */
static const int64_t cached_bytes = 1 << 20;

const char *instructions(void) { return "AMX"; }

/* Their shapes, eight of 16 rows of 64 bytes. */
static void open_tiles(void) {
    static const struct {
        uint8_t palette, start, reserved[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } shapes = {1, 0, {0}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};
    _tile_loadconfig(&shapes);
}

/* Nothing to save once released, and what went past the caches is there for all. */
static void close_tiles(void) {
    _tile_release();
    _mm_sfence();
}

/* Past the caches, one line of 64 bytes at a time. */
static inline void stream_row(const float *row, float *to) {
#if defined(__AVX512F__)
    for (int j = 0; j < COLUMNS; j += 16) _mm512_stream_ps(to + j, _mm512_load_ps(row + j));
#else
    memcpy(to, row, sizeof *row * COLUMNS);
#endif
}

enum { LEAVES = 2 };

/* Where a processor saves power, a tile instruction takes 30 cycles after another, and 20 after a few of any other kind:
   what leaves, and nothing at all. */
#define APART __asm__ volatile("nop; nop; nop; nop; nop; nop; nop; nop")

static void tile(const int8_t *left, const int8_t *right, int64_t steps, int32_t *sums, leaving *out) {
    enum { ROW = COLUMNS * 4, UPPER = 16 * COLUMNS, TILE = 16 * STEP };
    __asm__ volatile("" ::: "memory"); /* gcc does not know that tiles read memory */
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (; steps > 0; steps--, left += ROWS * STEP, right += COLUMNS * STEP) {
        _tile_loadd(4, left, STEP);
        APART;
        _tile_loadd(6, right, STEP);
        APART;
        _tile_dpbssd(0, 4, 6);
        APART;
        _tile_loadd(7, right + TILE, STEP);
        APART;
        _tile_dpbssd(1, 4, 7);
        APART;
        leave_some(out);
        _tile_loadd(5, left + TILE, STEP);
        APART;
        _tile_dpbssd(2, 5, 6);
        APART;
        _tile_dpbssd(3, 5, 7);
        APART;
        leave_some(out);
    }
    _tile_stored(0, sums, ROW);
    _tile_stored(1, sums + 16, ROW);
    _tile_stored(2, sums + UPPER, ROW);
    _tile_stored(3, sums + UPPER + 16, ROW);
}

#if defined(WIDE_PACKING)
/* The planes of 32 numbers of 16 bits: high, low and their sum, or the numbers alone. */
static inline void split32(__m512i q, int planes, __m512i *to) {
    if (planes == 1) {
        to[0] = q;
        return;
    }
    to[0] = _mm512_srai_epi16(_mm512_add_epi16(q, _mm512_set1_epi16(64)), 7);
    to[1] = _mm512_sub_epi16(q, _mm512_slli_epi16(to[0], 7));
    to[2] = _mm512_add_epi16(to[0], to[1]);
}

/* Rows whose numbers lie side by side: 16 rows of STEP bytes each. */
static inline void tile_of_rows(const int16_t *from, int64_t row, int planes, int8_t *to, int64_t apart) {
    const __m512i order = _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7);
    for (int r = 0; r < 16; r++) {
        __m512i a[3], b[3];
        split32(_mm512_loadu_si512(from + r * row), planes, a);
        split32(_mm512_loadu_si512(from + r * row + 32), planes, b);
        for (int p = 0; p < planes; p++)
            _mm512_storeu_si512(to + p * apart + r * STEP,
                                _mm512_permutexvar_epi64(order, _mm512_packs_epi16(a[p], b[p])));
    }
}

/* 32 rows that lie side by side: two tiles of 16 words by 16 rows. */
static inline void tiles_of_columns(const int16_t *from, int64_t depth, int planes, int8_t *to, int64_t apart) {
    const __m512i first = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
    const __m512i second = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
    for (int k = 0; k < STEP; k += 4) {
        __m512i q[4][3];
        for (int n = 0; n < 4; n++) {
            const int16_t *at = from + (k + n) * depth;
            __builtin_prefetch(at + 64);
            split32(_mm512_loadu_si512(at), planes, q[n]);
        }
        for (int p = 0; p < planes; p++) {
            __m512i a = _mm512_mask_blend_epi8(0xAAAAAAAAAAAAAAAA, q[0][p], _mm512_slli_epi16(q[1][p], 8));
            __m512i b = _mm512_mask_blend_epi8(0xAAAAAAAAAAAAAAAA, q[2][p], _mm512_slli_epi16(q[3][p], 8));
            __m512i low = _mm512_unpacklo_epi16(a, b), high = _mm512_unpackhi_epi16(a, b);
            int8_t *at = to + p * apart + k * 16;
            _mm512_storeu_si512(at, _mm512_permutex2var_epi64(low, first, high));
            _mm512_storeu_si512(at + 16 * STEP, _mm512_permutex2var_epi64(low, second, high));
        }
    }
}

/* Sixteen by sixteen words, turned. */
static inline void turn_tile(const int8_t *from, int8_t *to) {
    __m512i a[16], b[16];
    for (int i = 0; i < 16; i++) a[i] = _mm512_loadu_si512(from + 64 * i);
    for (int i = 0; i < 16; i += 2) {
        b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
        b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
    }
    for (int i = 0; i < 16; i += 4)
        for (int j = 0; j < 2; j++) {
            a[i + 2 * j] = _mm512_unpacklo_epi64(b[i + j], b[i + j + 2]);
            a[i + 2 * j + 1] = _mm512_unpackhi_epi64(b[i + j], b[i + j + 2]);
        }
    for (int j = 0; j < 4; j++)
        for (int h = 0; h < 2; h++) {
            b[8 * h + j] = _mm512_shuffle_i32x4(a[8 * h + j], a[8 * h + 4 + j], 0x88);
            b[8 * h + 4 + j] = _mm512_shuffle_i32x4(a[8 * h + j], a[8 * h + 4 + j], 0xDD);
        }
    for (int j = 0; j < 4; j++)
        for (int h = 0; h < 2; h++) {
            _mm512_storeu_si512(to + 64 * (j + 4 * h), _mm512_shuffle_i32x4(b[4 * h + j], b[8 + 4 * h + j], 0x88));
            _mm512_storeu_si512(to + 64 * (j + 4 * h + 8), _mm512_shuffle_i32x4(b[4 * h + j], b[8 + 4 * h + j], 0xDD));
        }
}

/* A run of a panel of 32 rows: a tile each of the first and of the last 16. */
static inline void pack_run(const int16_t *from, int64_t row, int64_t depth, int width, int group, int planes,
                            int8_t *to, int64_t apart) {
    int8_t words[3][2][16 * STEP] __attribute__((aligned(64)));
    int turned = group == STEP ? depth != 1 : depth == 1;
    int8_t *at = turned ? words[0][0] : to;
    int64_t between = turned ? sizeof words[0] : apart;
    if (depth == 1)
        for (int half = 0; half < 2; half++)
            tile_of_rows(from + 16 * half * row, row, planes, at + half * 16 * STEP, between);
    else
        tiles_of_columns(from, depth, planes, at, between);
    for (int plane = 0; turned && plane < planes; plane++)
        for (int half = 0; half < 2; half++)
            turn_tile(words[plane][half], to + plane * apart + half * 16 * STEP);
}
#endif
#endif
