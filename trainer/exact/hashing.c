// Tensor digests (SPEC.md 2.2): the tree over a tensor's rows and the blocks in them, by the SHA-256 of libcrypto, whose
// functions the caller finds. A hash begins from the state after its purpose, which is copied and never made again.

#include <stdint.h>
#include <string.h>

#define DIGEST 32
#define STATE 256 // SHA256_CTX has 112 bytes
#define BLOCK 8192 // the longest block: 1,024 numbers of 8 bytes

typedef struct { _Alignas(64) unsigned char bytes[STATE]; } state;

typedef struct {
    int (*init)(void *), (*update)(void *, const void *, size_t), (*final)(unsigned char *, void *);
} sha256;

enum { BLOCK_LEAF, BLOCK_NODE, BLOCK_ROOT, ROW_LEAF, ROW_NODE, ROW_ROOT, PURPOSES };

typedef struct {
    sha256 hash;
    state begun[PURPOSES];
} hashes;

typedef struct {
    const unsigned char *data;
    int64_t rows, width, block; // bytes of a row and of a block; no row is empty
    int64_t is_float, threads;
} numbers;

static void big_endian(uint64_t number, unsigned char out[8]) {
    for (int place = 7; place >= 0; place--, number >>= 8) out[place] = number & 255;
}

static void part(const hashes *with, state *to, const void *data, uint64_t size) {
    unsigned char length[8];
    big_endian(size, length);
    with->hash.update(to, length, 8);
    with->hash.update(to, data, size);
}

static void leaf_of(const hashes *with, int purpose, const void *data, uint64_t size, unsigned char *out) {
    state own = with->begun[purpose];
    part(with, &own, data, size);
    with->hash.final(out, &own);
}

static void node_of(const hashes *with, int purpose, const unsigned char *pair, unsigned char *out) {
    state own = with->begun[purpose];
    part(with, &own, pair, DIGEST);
    part(with, &own, pair + DIGEST, DIGEST);
    with->hash.final(out, &own);
}

// Leaves `nodes` with the top in its first place: of an odd number the last one moves up.
static void climb(const hashes *with, int purpose, unsigned char *nodes, int64_t count) {
    for (; count > 1; count = (count + 1) / 2) {
        for (int64_t pair = 0; pair < count / 2; pair++)
            node_of(with, purpose, nodes + 2 * pair * DIGEST, nodes + pair * DIGEST);
        if (count % 2) memmove(nodes + count / 2 * DIGEST, nodes + (count - 1) * DIGEST, DIGEST);
    }
}

static void crown(const hashes *with, int purpose, int64_t count, const unsigned char *top, unsigned char *out) {
    state own = with->begun[purpose];
    unsigned char number[8];
    big_endian(count, number);
    part(with, &own, number, 8);
    part(with, &own, top, DIGEST);
    with->hash.final(out, &own);
}

// -0.0 counts as +0.0.
static const unsigned char *as_hashed(const numbers *of, const unsigned char *data, int64_t size, uint32_t *room) {
    if (!of->is_float) return data;
    memcpy(room, data, size);
    for (int64_t place = 0; place < size / 4; place++) room[place] = room[place] == 0x80000000u ? 0 : room[place];
    return (const unsigned char *)room;
}

static void row_of(const hashes *with, const numbers *of, int64_t row, unsigned char *nodes, unsigned char *out) {
    const unsigned char *data = of->data + row * of->width;
    uint32_t room[BLOCK / 4];
    int64_t blocks = (of->width + of->block - 1) / of->block;
    for (int64_t place = 0; place < blocks; place++) {
        int64_t begin = place * of->block, left = of->width - begin, size = left < of->block ? left : of->block;
        leaf_of(with, BLOCK_LEAF, as_hashed(of, data + begin, size, room), size, nodes + place * DIGEST);
    }
    climb(with, BLOCK_NODE, nodes, blocks);
    crown(with, BLOCK_ROOT, blocks, nodes, out);
}

void begin(hashes *with, int purpose, const unsigned char *prefix, int64_t size) {
    with->hash.init(&with->begun[purpose]);
    with->hash.update(&with->begun[purpose], prefix, size);
}

int64_t size_of_hashes(void) { return sizeof(hashes); }

// `leaves`: room for a digest of each row; `nodes`: for one of each block of a row, for every thread. The root over the
// rows is left in `root`.
void root_over(const hashes *with, const numbers *of, unsigned char *leaves, unsigned char *nodes, unsigned char *root) {
    int64_t blocks = (of->width + of->block - 1) / of->block, own = of->rows / of->threads + 1;
#pragma omp parallel for num_threads(of->threads) schedule(static, 1)
    for (int64_t thread = 0; thread < of->threads; thread++) {
        int64_t end = (thread + 1) * own < of->rows ? (thread + 1) * own : of->rows;
        for (int64_t row = thread * own; row < end; row++) {
            unsigned char found[DIGEST];
            row_of(with, of, row, nodes + thread * blocks * DIGEST, found);
            leaf_of(with, ROW_LEAF, found, DIGEST, leaves + row * DIGEST);
        }
    }
    climb(with, ROW_NODE, leaves, of->rows);
    crown(with, ROW_ROOT, of->rows, leaves, root);
}
