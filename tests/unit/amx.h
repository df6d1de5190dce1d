/* Intel's tile instructions written out (Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2), so
   that the kernel that uses them runs on any x86. Without a configuration of full tiles nothing is loaded or stored. */
#include <immintrin.h>
#include <string.h>
static _Thread_local int configured;
static _Thread_local signed char tiles[8][16][64];
static void configure(const unsigned char *shapes) {
    configured = shapes[0] == 1;
    for (int n = 0; n < 8; n++)
        configured &= shapes[16 + 2 * n] == 64 && shapes[17 + 2 * n] == 0 && shapes[48 + n] == 16;
}
static void load(int tile, const char *from, long stride) {
    for (int row = 0; configured && row < 16; row++) memcpy(tiles[tile][row], from + row * stride, 64);
}
static void store(int tile, char *to, long stride) {
    for (int row = 0; configured && row < 16; row++) memcpy(to + row * stride, tiles[tile][row], 64);
}
static void multiply(int to, int left, int right) {
    int sums[16][16];
    memcpy(sums, tiles[to], sizeof sums);
    for (int row = 0; row < 16; row++)
        for (int k = 0; k < 64; k++)
            for (int column = 0; column < 16; column++)
                sums[row][column] += tiles[left][row][k] * tiles[right][k / 4][4 * column + k % 4];
    memcpy(tiles[to], sums, sizeof sums);
}
#undef _tile_loadd
#undef _tile_stored
#undef _tile_zero
#undef _tile_dpbssd
#define _tile_loadconfig(shapes) configure((const unsigned char *)(shapes))
#define _tile_release() (configured = 0)
#define _tile_zero(tile) memset(tiles[tile], 0, sizeof tiles[tile])
#define _tile_loadd(tile, from, stride) load(tile, (const char *)(from), stride)
#define _tile_stored(tile, to, stride) store(tile, (char *)(to), stride)
#define _tile_dpbssd(to, left, right) multiply(to, left, right)
#undef PORTABLE_TILES
#define __AMXINT8__ 1
