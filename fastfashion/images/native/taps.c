/* Which source pixels an output pixel is made of, and their weights: whole numbers alone, so that every machine finds the same.
 *
 * Positions are in units of 2^-32 pixels, kernels in 2^-16, weights in 2^-14. images/resampling.py does the same with NumPy.
 */
#include "taps.h"

#include <math.h>

enum { PLACE_BITS = 32, KERNEL_BITS = 16, SHARE_BITS = 4 };
#define PLACE_ONE ((int64_t)1 << PLACE_BITS)
#define PLACE_HALF (PLACE_ONE / 2)
#define KERNEL_ONE ((int64_t)1 << KERNEL_BITS)

/* The kernel at distance t >= 0, which is below its reach (1 or 2) but for rounding. */
INLINE int64_t kernel_at(int64_t t, int kernel) {
    if (kernel == TRIANGLE) return KERNEL_ONE - t;
    int64_t square = t * t >> KERNEL_BITS; /* Keys' cubic, a = -1/2 */
    if (t < KERNEL_ONE) return KERNEL_ONE + ((3 * t - 5 * KERNEL_ONE) * square >> (KERNEL_BITS + 1));
    return 2 * KERNEL_ONE - 4 * t + ((5 * KERNEL_ONE - t) * square >> (KERNEL_BITS + 1));
}

/* Where the output pixels of an axis are, and how far they see, in source pixels (of luma's grid if fancy). */
typedef struct {
    int64_t from, step, reach;
    double narrowing; /* from distances to the kernel's */
    int first, last;  /* the pixels that the box touches */
    int bound;        /* of the source pixels of one output pixel */
} Grid;

static int clip(int i, int low, int high) { return i < low ? low : i > high ? high : i; }

static Grid find_grid(const Axis *axis) {
    Grid grid;
    /* A power of two changes no digit: whole boxes stay whole. The box ends below 2^17, so that no product or sum leaves 64 bits. */
    grid.from = (int64_t)(axis->from * (double)PLACE_ONE);
    grid.step = (int64_t)((axis->to - axis->from) * (double)PLACE_ONE / axis->size);
    int64_t support = grid.step > PLACE_ONE ? grid.step : PLACE_ONE;
    grid.narrowing = (double)KERNEL_ONE / (double)support;
    grid.reach = axis->kernel == CUBIC ? 2 * support : support;
    grid.first = (int)floor(axis->from), grid.last = (int)ceil(axis->to);
    if (!axis->fancy) { /* what does not exist has no influence; `fold` does the same for what the box sees of a fancy axis */
        grid.first = clip(grid.first, axis->low, axis->high - 1);
        grid.last = clip(grid.last, grid.first + 1, axis->high);
    }
    int64_t bound = (2 * grid.reach >> PLACE_BITS) + 2;
    if (bound > grid.last - grid.first) bound = grid.last - grid.first;
    grid.bound = (int)bound;
    return grid;
}

/* The kernel's values at the pixels of one output pixel; returns how many there are, from *start on. */
INLINE int find_values(const Grid *grid, int kernel, int64_t centre, int *start, int64_t *values) {
    /* Those nearer than `reach`: strictly, so that none is 0 but by rounding. */
    int first = (int)((centre - grid->reach - PLACE_HALF) >> PLACE_BITS) + 1;
    int last = (int)((centre + grid->reach + PLACE_HALF - 1) >> PLACE_BITS);
    if (first < grid->first) first = grid->first;
    if (last > grid->last) last = grid->last;
    if (last <= first) { /* a box far from all pixels that exist: the nearest of them */
        *start = first < grid->last ? first : grid->last - 1;
        values[0] = KERNEL_ONE;
        return 1;
    }
    int64_t at = first * PLACE_ONE + PLACE_HALF - centre;
    for (int k = 0; k < last - first; k++, at += PLACE_ONE)
        values[k] = kernel_at((int64_t)((double)(at < 0 ? -at : at) * grid->narrowing), kernel);
    *start = first;
    return last - first;
}

/* From pixels of luma's grid to the component's: pixel 2 j is 3/4 of j and 1/4 of j - 1, pixel 2 j + 1 is 3/4 of j and 1/4 of j + 1.
 * `folded` gets four times the values. */
static int fold(const Axis *axis, int *start, const int64_t *values, int count, int64_t *folded) {
    int low = axis->low, high = axis->high - 1;
    if (high > axis->full - 1) high = axis->full - 1;
    int first = clip((*start - 1) >> 1, low, high), last = clip((*start + count) >> 1, low, high);
    memset(folded, 0, (last - first + 1) * sizeof *folded);
    for (int k = 0; k < count; k++) {
        int pixel = *start + k, j = pixel >> 1;
        folded[clip(j, low, high) - first] += 3 * values[k];
        folded[clip(pixel & 1 ? j + 1 : j - 1, low, high) - first] += values[k];
    }
    *start = first;
    return last - first + 1;
}

INLINE int32_t twice(int weight) { return (int32_t)((uint32_t)(uint16_t)weight * 0x10001u); }

/* Weights that sum to ONE; what rounding leaves goes to the heaviest. */
INLINE void weigh(const int64_t *values, int count, int32_t *weights) {
    int64_t sum = 0;
    int heaviest = 0, left = ONE;
    for (int k = 0; k < count; k++) {
        sum += values[k];
        if (values[k] > values[heaviest]) heaviest = k;
    }
    double share = sum > 0 ? (double)(ONE << SHARE_BITS) / (double)sum : 0;
    int most = 0;
    for (int k = 0; k < count; k++) {
        int weight = ((int)((double)values[k] * share) + (1 << (SHARE_BITS - 1))) >> SHARE_BITS;
        left -= weight;
        if (k == heaviest) most = weight;
        weights[k] = twice(weight);
    }
    weights[heaviest] = twice(most + left);
}

/* Bring the taps, of which each output pixel has its own number, to one number, the largest. */
static void align(Taps *taps, int bound, const int32_t *counts) {
    int size = taps->axis.size, most = 1;
    taps->first = taps->start[0], taps->last = 0;
    for (int i = 0; i < size; i++) {
        int last = taps->start[i] + counts[i];
        if (counts[i] > most) most = counts[i];
        if (taps->start[i] < taps->first) taps->first = taps->start[i];
        if (last > taps->last) taps->last = last;
    }
    taps->count = most; /* at most last - first, so that a start which moves down below stays at or above `first` */
    taps->straight = most == 1;
    for (int i = 0; i < size; i++) {
        const int32_t *from = taps->weights + (size_t)i * bound;
        int32_t *to = taps->weights + (size_t)i * most; /* at or before `from` */
        int down = taps->start[i] + most - taps->last;
        if (down < 0) down = 0;
        if (most < bound || down) memmove(to + down, from, counts[i] * sizeof *to);
        if (down) memset(to, 0, down * sizeof *to);
        memset(to + down + counts[i], 0, (most - down - counts[i]) * sizeof *to);
        taps->start[i] -= down;
        taps->straight &= taps->start[i] == taps->first + i;
    }
}

static int fill(Taps *taps, Buffer *sums) {
    const Axis *axis = &taps->axis;
    Grid grid = find_grid(axis);
    int size = axis->size, bound = axis->fancy ? grid.bound / 2 + 2 : grid.bound;
    size_t ints = (size_t)size * (bound + 2);
    if (!reserve(&taps->memory, ints * sizeof(int32_t)) || !reserve(sums, (size_t)(grid.bound + bound) * sizeof(int64_t))) return 0;
    int64_t *values = sums->data, *folded = values + grid.bound;
    int32_t *counts = taps->memory.data;
    taps->start = counts + size, taps->weights = taps->start + size;
    int64_t centre = grid.from + grid.step / 2;
    for (int i = 0; i < size; i++, centre += grid.step) {
        int start, count = find_values(&grid, axis->kernel, centre, &start, values);
        if (axis->fancy) count = fold(axis, &start, values, count, folded);
        weigh(axis->fancy ? folded : values, count, taps->weights + (size_t)i * bound);
        taps->start[i] = start, counts[i] = count;
    }
    align(taps, bound, counts);
    return 1;
}

const Taps *find_taps(TapsCache *cache, const Axis *axis) {
    Taps *oldest = cache->taps;
    for (Taps *taps = cache->taps; taps < cache->taps + KEPT_TAPS; taps++) {
        if (taps->used && !memcmp(&taps->axis, axis, sizeof *axis)) {
            taps->used = ++cache->used;
            return taps;
        }
        if (taps->used < oldest->used) oldest = taps;
    }
    oldest->axis = *axis;
    oldest->used = 0; /* not there, if memory ends */
    if (!fill(oldest, &cache->sums)) return NULL;
    oldest->used = ++cache->used;
    return oldest;
}

void free_taps(TapsCache *cache) {
    for (int i = 0; i < KEPT_TAPS; i++) free(cache->taps[i].memory.data);
    free(cache->sums.data);
}

size_t taps_bytes(const TapsCache *cache) {
    size_t bytes = cache->sums.size;
    for (int i = 0; i < KEPT_TAPS; i++) bytes += cache->taps[i].memory.size;
    return bytes;
}
