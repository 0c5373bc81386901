/* Decodes the part of a JPEG that a crop needs, and resizes it: whole chunks of images, without Python's lock.
 *
 *   encoded ─► jpeg.c, or turbo.c: the part that the box needs, at the scale that it needs ─► resample.c: two axes, flip ─► place in out
 *
 * Built if a C compiler and libjpeg-turbo's headers are available; load/crops.py does the same without it, more slowly.
 */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030b0000
#include <Python.h>

#include "jpeg.h"
#include "resample.h"
#include "rgb.h"
#include "seek_calls.h"
#include "turbo.h"

static Target find_target(uint8_t *out, int height, int width, const int32_t *place) {
    Target all = {out, (ptrdiff_t)width * CHANNELS, height, width};
    if (!place) return all;
    Target part = {out + place[0] * all.stride + place[1] * CHANNELS, all.stride, place[2] - place[0], place[3] - place[1]};
    return part;
}

static void fill_pixels(uint8_t *to, const uint8_t *end, const uint8_t *colour) {
    for (; to < end; to += CHANNELS) memcpy(to, colour, CHANNELS);
}

/* Paint everything around a place of one output image. */
static void fill_around(uint8_t *out, int height, int width, const int32_t *place, const uint8_t *colour) {
    ptrdiff_t stride = (ptrdiff_t)width * CHANNELS;
    fill_pixels(out, out + place[0] * stride, colour);
    for (int y = place[0]; y < place[2]; y++) {
        uint8_t *line = out + y * stride;
        fill_pixels(line, line + place[1] * CHANNELS, colour);
        fill_pixels(line + place[3] * CHANNELS, line + stride, colour);
    }
    fill_pixels(out + place[2] * stride, out + height * stride, colour);
}

typedef struct {
    int height, width;
    double oversample;
    const int32_t *places; /* four an image, or NULL: each fills its output image */
    const uint8_t *colour; /* of what is around a place */
    int own;               /* decode plain JPEGs with the decoder of our own; 0: with libjpeg-turbo */
    const Mark *marks;     /* where decoding can start in the images, or NULL */
    const int64_t *first;  /* marks[first[i]] to marks[first[i + 1] - 1] are of image i */
} Wanted;

INLINE Marks marks_of(const Wanted *wanted, Py_ssize_t i) {
    Marks none = {NULL, 0};
    if (!wanted->marks) return none;
    return (Marks){wanted->marks + wanted->first[i], (size_t)(wanted->first[i + 1] - wanted->first[i])};
}

/* What a call works with. It is kept for a later call: making it takes as long as half a small image. */
typedef struct State {
    struct State *next;
    Turbo *turbo;
    Jpeg *own;
    Resampler resampler;
    Buffer lines, rgb;
} State;

enum { AHEAD_BYTES = 4096, LINE_BYTES = 64 };
enum { MOST_KEPT = 64, MOST_KEPT_BYTES = 4 << 20 /* of buffers, in each */ };
static State *kept; /* only with Python's lock */
static int num_kept;

static void close_state(State *state) {
    close_turbo(state->turbo);
    close_baseline(state->own);
    free(state->lines.data);
    free(state->rgb.data);
    free_resampler(&state->resampler);
    free(state);
}

/* A state that no other call has, or NULL with Python's error set. */
static State *take_state(void) {
    State *state = kept;
    if (state) {
        kept = state->next, num_kept--;
        return state;
    }
    if ((state = calloc(1, sizeof *state)) && (state->turbo = open_turbo()) && (state->own = open_baseline())) return state;
    if (state) close_state(state);
    PyErr_NoMemory();
    return NULL;
}

static void give_back(State *state) {
    size_t bytes = turbo_bytes(state->turbo) + baseline_bytes(state->own) + resampler_bytes(&state->resampler) + state->rgb.size;
    if (num_kept == MOST_KEPT || bytes > MOST_KEPT_BYTES) {
        close_state(state);
        return;
    }
    state->next = kept;
    kept = state, num_kept++;
}

/* Have the pages of an encoded image read, so that `seconds` counts reading apart from decoding. */
static void touch(const Py_buffer *encoded, double *seconds) {
    double started = now_s();
    unsigned touched = 0;
    for (Py_ssize_t at = 0; at < encoded->len; at += 4096) touched += ((const volatile uint8_t *)encoded->buf)[at];
    (void)touched;
    seconds[0] += now_s() - started;
}

static void mirror(const Target *target) {
    for (int y = 0; y < target->height; y++) {
        uint8_t *left = target->out + y * target->stride, *right = left + (target->width - 1) * CHANNELS;
        for (; left < right; left += CHANNELS, right -= CHANNELS) {
            uint8_t pixel[CHANNELS];
            memcpy(pixel, left, CHANNELS), memcpy(left, right, CHANNELS), memcpy(right, pixel, CHANNELS);
        }
    }
}

/* RGB of a box at its own size: of planes that hold it at full scale. The pixels are those of every decoder. */
static int show_same(State *state, const Plane *planes, int components, const int32_t *box, int flip, const Target *target) {
    if (!planes_to_rgb(planes, components, box, target->out, target->stride, &state->lines)) return NO_MEMORY;
    if (flip) mirror(target);
    return 0;
}

/* RGB of a box at any other size. Chroma of luma's resolution (4:4:4, and 4:2:0 at smaller scales) becomes RGB before the resize, so that the pixels
 * are those of libjpeg-turbo's path: saturated colours are clipped there. Otherwise each plane is resized from its own resolution. */
static int show_resized(State *state, const Plane *planes, int components, const int32_t *box, int flip, const Target *target) {
    double inner[4] = {box[0], box[1], box[2], box[3]};
    if (components == 1 || planes[1].scale_y != planes[0].scale_y || planes[1].scale_x != planes[0].scale_x)
        return resample_planes(&state->resampler, planes, components, inner, target, flip, TRIANGLE);
    const Plane *luma = planes; /* all three have the same part */
    const int all[4] = {luma->top, luma->left, luma->top + luma->height, luma->left + luma->width};
    ptrdiff_t stride = (ptrdiff_t)luma->width * CHANNELS;
    if (!reserve(&state->rgb, (size_t)stride * (size_t)luma->height)) return NO_MEMORY;
    if (!planes_to_rgb(planes, components, all, state->rgb.data, stride, &state->lines)) return NO_MEMORY;
    for (int i = 0; i < 4; i++) inner[i] = inner[i] * luma->scale_y - (i % 2 ? luma->left : luma->top);
    return resample_rgb(&state->resampler, state->rgb.data, stride, inner, target, flip, TRIANGLE);
}

/* Load one image with the decoder of our own; NOT_FOR_US if libjpeg-turbo must load it. */
static int own_load(State *state, const Py_buffer *encoded, const int32_t *box, const int32_t *size, int flip, const Target *target, double oversample,
                    const Marks *marks, double *seconds) {
    Plane planes[3];
    double started = now_s();
    int status = baseline_read_header(state->own, encoded->buf, (size_t)encoded->len);
    const JpegHeader *header = baseline_header(state->own);
    if (!status && (header->turned || header->height != size[0] || header->width != size[1])) status = NOT_FOR_US;
    int same = box[2] - box[0] == target->height && box[3] - box[1] == target->width;
    int eighths = same ? 8 : choose_eighths(box, target->height, target->width, oversample);
    if (!status) status = baseline_decode(state->own, eighths, box, marks, planes);
    double decoded = now_s();
    seconds[1] += decoded - started;
    if (status) return status;
    status = (same ? show_same : show_resized)(state, planes, header->components, box, flip, target);
    seconds[2] += now_s() - decoded;
    return status;
}

/* Bring the first bytes of an image nearer to the processor while the one before is decoded. */
static void fetch_ahead(const Py_buffer *encoded) {
#ifdef __GNUC__
    const uint8_t *bytes = encoded->buf;
    for (Py_ssize_t at = 0; at < encoded->len && at < AHEAD_BYTES; at += LINE_BYTES) __builtin_prefetch(bytes + at);
#else
    (void)encoded;
#endif
}

static void load_all(State *state, const Py_buffer *encoded, Py_ssize_t count, const int32_t *boxes, const int32_t *sizes, const uint8_t *flips,
                     const Wanted *wanted, uint8_t *out, uint8_t *status, double *seconds) {
    size_t bytes = (size_t)wanted->height * wanted->width * CHANNELS;
    for (Py_ssize_t i = 0; i < count; i++) {
        const int32_t *place = wanted->places ? wanted->places + 4 * i : NULL;
        Target target = find_target(out + i * bytes, wanted->height, wanted->width, place);
        touch(encoded + i, seconds);
        if (i + 1 < count) fetch_ahead(encoded + i + 1);
        const int32_t *box = boxes + 4 * i, *size = sizes + 2 * i;
        Marks marks = marks_of(wanted, i);
        status[i] = wanted->own ? own_load(state, encoded + i, box, size, flips[i], &target, wanted->oversample, &marks, seconds) : NOT_FOR_US;
        if (status[i] == NOT_FOR_US)
            status[i] = turbo_load(state->turbo, &state->resampler, encoded[i].buf, encoded[i].len, box, size, flips[i], &target,
                                   wanted->oversample, seconds);
        if (place) fill_around(out + i * bytes, wanted->height, wanted->width, place, wanted->colour);
    }
}

/* The buffers of an argument list, released together; `hold` checks the size in bytes unless it is below 0. */
typedef struct {
    Py_buffer views[10];
    int held;
} Held;

static void *hold(Held *held, PyObject *object, const char *name, Py_ssize_t size, int writable) {
    Py_buffer *view = &held->views[held->held];
    if (PyObject_GetBuffer(object, view, PyBUF_C_CONTIGUOUS | (writable ? PyBUF_WRITABLE : 0)) < 0) return NULL;
    held->held++;
    if (size >= 0 && view->len != size) {
        PyErr_Format(PyExc_ValueError, "%s: expected %zd bytes, found %zd", name, size, view->len);
        return NULL;
    }
    return view->buf;
}

static void release(Held *held) {
    while (held->held) PyBuffer_Release(&held->views[--held->held]);
}

/* Python passes boxes inside of images; any other box would read or write outside of them. */
static int check_box(const char *name, Py_ssize_t i, const int32_t *box, int height, int width) {
    if (box[0] >= 0 && box[1] >= 0 && box[0] < box[2] && box[1] < box[3] && box[2] <= height && box[3] <= width) return 1;
    PyErr_Format(PyExc_ValueError, "%s %zd: expected y0 < y1 <= %d and x0 < x1 <= %d, found %d, %d, %d, %d", name, i, height, width, box[0],
                 box[1], box[2], box[3]);
    return 0;
}

static int check_boxes(const int32_t *boxes, const int32_t *sizes, Py_ssize_t count) {
    for (Py_ssize_t i = 0; i < count; i++)
        if (!check_box("box", i, boxes + 4 * i, sizes[2 * i], sizes[2 * i + 1])) return 0;
    return 1;
}

/* Places and their colour, which are both None or both arrays. Returns 0 if they are not what `count` images need. */
static int hold_places(Held *held, PyObject *places_o, PyObject *colour_o, Py_ssize_t count, Wanted *wanted) {
    wanted->places = NULL, wanted->colour = NULL;
    if (places_o == Py_None) return 1;
    if (!(wanted->places = hold(held, places_o, "places", count * 16, 0)) || !(wanted->colour = hold(held, colour_o, "colour", CHANNELS, 0)))
        return 0;
    for (Py_ssize_t i = 0; i < count; i++)
        if (!check_box("place", i, wanted->places + 4 * i, wanted->height, wanted->width)) return 0;
    return 1;
}

/* Marks and which of them are whose, which are both None or both arrays. Returns 0 if they are not those of `count` images. */
static int hold_marks(Held *held, PyObject *marks_o, PyObject *first_o, Py_ssize_t count, Wanted *wanted) {
    wanted->marks = NULL, wanted->first = NULL;
    if (marks_o == Py_None) return 1;
    const Mark *marks = hold(held, marks_o, "marks", -1, 0);
    if (!marks || !(wanted->first = hold(held, first_o, "first", (count + 1) * 8, 0))) return 0;
    int64_t total = held->views[held->held - 2].len / (Py_ssize_t)sizeof(Mark), last = 0;
    for (Py_ssize_t i = 0; i <= count; last = wanted->first[i++])
        if (wanted->first[i] < last || wanted->first[i] > total) {
            PyErr_Format(PyExc_ValueError, "first %zd: expected %lld to %lld, found %lld", i, (long long)last, (long long)total,
                         (long long)wanted->first[i]);
            return 0;
        }
    wanted->marks = marks;
    return 1;
}

static PyObject *load_crops(PyObject *module, PyObject *args) {
    PyObject *list, *boxes_o, *sizes_o, *flips_o, *out_o, *status_o, *seconds_o, *places_o = Py_None, *colour_o = Py_None,
             *marks_o = Py_None, *first_o = Py_None, *result = NULL;
    Wanted wanted = {.own = 1};
    State *state = NULL;
    (void)module;
    if (!PyArg_ParseTuple(args, "O!OOOOiidOO|OOpOO", &PyList_Type, &list, &boxes_o, &sizes_o, &flips_o, &out_o, &wanted.height, &wanted.width,
                          &wanted.oversample, &status_o, &seconds_o, &places_o, &colour_o, &wanted.own, &marks_o, &first_o))
        return NULL;
    Py_ssize_t count = PyList_Size(list), opened = 0;
    Held held = {.held = 0};
    Py_buffer *encoded = PyMem_Calloc(count ? count : 1, sizeof *encoded);
    if (!encoded) return PyErr_NoMemory();
    int32_t *boxes, *sizes;
    uint8_t *flips, *out, *status;
    double *seconds;
    if (!(boxes = hold(&held, boxes_o, "boxes", count * 16, 0)) || !(sizes = hold(&held, sizes_o, "sizes", count * 8, 0)) ||
        !(flips = hold(&held, flips_o, "flips", count, 0)) ||
        !(out = hold(&held, out_o, "out", count * wanted.height * wanted.width * CHANNELS, 1)) ||
        !(status = hold(&held, status_o, "status", count, 1)) || !(seconds = hold(&held, seconds_o, "seconds", 3 * sizeof(double), 1)) ||
        !check_boxes(boxes, sizes, count) || !hold_places(&held, places_o, colour_o, count, &wanted) ||
        !hold_marks(&held, marks_o, first_o, count, &wanted))
        goto done;
    for (; opened < count; opened++)
        if (PyObject_GetBuffer(PyList_GetItem(list, opened), encoded + opened, PyBUF_C_CONTIGUOUS) < 0) goto done;
    if (!(state = take_state())) goto done;
    Py_BEGIN_ALLOW_THREADS
    load_all(state, encoded, count, boxes, sizes, flips, &wanted, out, status, seconds);
    Py_END_ALLOW_THREADS
    give_back(state);
    result = memchr(status, NO_MEMORY, count) ? PyErr_NoMemory() : Py_NewRef(Py_None);
done:
    while (opened) PyBuffer_Release(encoded + --opened);
    PyMem_Free(encoded);
    release(&held);
    return result;
}

/* Bring a box into the cache while the image before it is resized: images come in random order. */
static void fetch_box(const uint8_t *image, ptrdiff_t stride, const int32_t *box) {
    for (int y = box[0]; y < box[2]; y++)
        for (int x = box[1] * CHANNELS; x < box[3] * CHANNELS; x += CACHE_LINE) __builtin_prefetch(image + y * stride + x, 0, 2);
}

static PyObject *resize_crops(PyObject *module, PyObject *args) {
    PyObject *source_o, *index_o, *boxes_o, *flips_o, *out_o, *places_o = Py_None, *colour_o = Py_None, *result = NULL;
    int source_height, source_width;
    Wanted wanted = {0};
    Py_ssize_t count;
    (void)module;
    if (!PyArg_ParseTuple(args, "OiiOOOOnii|OO", &source_o, &source_height, &source_width, &index_o, &boxes_o, &flips_o, &out_o, &count,
                          &wanted.height, &wanted.width, &places_o, &colour_o))
        return NULL;
    Held held = {.held = 0};
    State *state;
    uint8_t *source, *flips, *out;
    int64_t *index;
    int32_t *boxes;
    if (!(source = hold(&held, source_o, "source", -1, 0)) || !(index = hold(&held, index_o, "index", count * 8, 0)) ||
        !(boxes = hold(&held, boxes_o, "boxes", count * 16, 0)) || !(flips = hold(&held, flips_o, "flips", count, 0)) ||
        !(out = hold(&held, out_o, "out", count * wanted.height * wanted.width * CHANNELS, 1)) ||
        !hold_places(&held, places_o, colour_o, count, &wanted))
        goto done;
    size_t image = (size_t)source_height * source_width * CHANNELS, shown = (size_t)wanted.height * wanted.width * CHANNELS;
    ptrdiff_t stride = (ptrdiff_t)source_width * CHANNELS;
    int64_t images = image ? held.views[0].len / (Py_ssize_t)image : 0;
    for (Py_ssize_t i = 0; i < count; i++) {
        if (!check_box("box", i, boxes + 4 * i, source_height, source_width)) goto done;
        if (index[i] < 0 || index[i] >= images) {
            PyErr_Format(PyExc_ValueError, "index %zd: expected 0 or more and below %lld, found %lld", i, (long long)images, (long long)index[i]);
            goto done;
        }
    }
    if (!(state = take_state())) goto done;
    int ok = 1;
    Py_BEGIN_ALLOW_THREADS
    for (Py_ssize_t i = 0; i < count && ok; i++) {
        double box[4];
        for (int k = 0; k < 4; k++) box[k] = boxes[4 * i + k];
        const int32_t *place = wanted.places ? wanted.places + 4 * i : NULL;
        Target target = find_target(out + i * shown, wanted.height, wanted.width, place);
        if (i + 1 < count) fetch_box(source + index[i + 1] * image, stride, boxes + 4 * (i + 1));
        ok = !resample_rgb(&state->resampler, source + index[i] * image, stride, box, &target, flips[i], TRIANGLE);
        if (place) fill_around(out + i * shown, wanted.height, wanted.width, place, wanted.colour);
    }
    Py_END_ALLOW_THREADS
    give_back(state);
    result = ok ? Py_NewRef(Py_None) : PyErr_NoMemory();
done:
    release(&held);
    return result;
}

/* A whole image at 1, 2, 4 or 8 eighths of its size, of which `out` must have the bytes. Returns 0, NOT_FOR_US or NO_MEMORY. */
static int decode_whole(State *state, const Py_buffer *data, int eighths, uint8_t *out, Py_ssize_t bytes) {
    Plane planes[3];
    int status = baseline_read_header(state->own, data->buf, (size_t)data->len);
    if (status) return status;
    const JpegHeader *header = baseline_header(state->own);
    /* Sides are below 2^16: no product leaves 64 bits. */
    int64_t height = ((int64_t)header->height * eighths + 7) / 8, width = ((int64_t)header->width * eighths + 7) / 8;
    if (height * width * CHANNELS != bytes) return NOT_FOR_US;
    const int32_t box[4] = {0, 0, header->height, header->width};
    if ((status = baseline_decode(state->own, eighths, box, NULL, planes))) return status;
    if (!baseline_is_whole(state->own)) return NOT_FOR_US;
    const int all[4] = {0, 0, (int)height, (int)width};
    return planes_to_rgb(planes, header->components, all, out, (ptrdiff_t)width * CHANNELS, &state->lines) ? 0 : NO_MEMORY;
}

static PyObject *decode_rgb(PyObject *module, PyObject *args) {
    PyObject *data_o, *out_o, *result = NULL;
    int eighths, status = NO_MEMORY;
    (void)module;
    if (!PyArg_ParseTuple(args, "OiO", &data_o, &eighths, &out_o)) return NULL;
    if (eighths != 1 && eighths != 2 && eighths != 4 && eighths != 8)
        return PyErr_Format(PyExc_ValueError, "eighths: expected 1, 2, 4 or 8, found %d", eighths);
    Held held = {.held = 0};
    State *state = NULL;
    uint8_t *out;
    if (!hold(&held, data_o, "data", -1, 0) || !(out = hold(&held, out_o, "out", -1, 1)) || !(state = take_state())) goto done;
    Py_BEGIN_ALLOW_THREADS
    status = decode_whole(state, &held.views[0], eighths, out, held.views[1].len);
    Py_END_ALLOW_THREADS
    result = status == NO_MEMORY ? PyErr_NoMemory() : PyBool_FromLong(status == 0);
done:
    if (state) give_back(state);
    release(&held);
    return result;
}

static PyObject *resize_rgb(PyObject *module, PyObject *args) {
    PyObject *source_o, *out_o, *result = NULL;
    int source_height, source_width, height, width, kernel = CUBIC, ok = 0;
    double box[4];
    (void)module;
    if (!PyArg_ParseTuple(args, "Oii(dddd)Oii|i", &source_o, &source_height, &source_width, &box[0], &box[1], &box[2], &box[3], &out_o, &height,
                          &width, &kernel))
        return NULL;
    if (!(box[0] >= 0 && box[1] >= 0 && box[0] < box[2] && box[1] < box[3] && box[2] <= source_height && box[3] <= source_width) || height < 1 ||
        width < 1) {
        PyErr_SetString(PyExc_ValueError, "box: expected 0 <= y0 < y1 <= height, 0 <= x0 < x1 <= width and an output of 1 pixel or more");
        return NULL;
    }
    Held held = {.held = 0};
    State *state = NULL;
    uint8_t *source, *out;
    if (!(source = hold(&held, source_o, "source", (Py_ssize_t)source_height * source_width * CHANNELS, 0)) ||
        !(out = hold(&held, out_o, "out", (Py_ssize_t)height * width * CHANNELS, 1)) || !(state = take_state()))
        goto done;
    Target target = find_target(out, height, width, NULL);
    Py_BEGIN_ALLOW_THREADS
    ok = resample_rgb(&state->resampler, source, (ptrdiff_t)source_width * CHANNELS, box, &target, 0, kernel) == 0;
    Py_END_ALLOW_THREADS
    result = ok ? Py_NewRef(Py_None) : PyErr_NoMemory();
done:
    if (state) give_back(state);
    release(&held);
    return result;
}

/* One plane as Python describes it; its pixels are held. Returns 0 with Python's error set. */
static int hold_plane(Held *held, PyObject *description, Plane *plane) {
    PyObject *pixels;
    if (!PyArg_ParseTuple(description, "Oiiiiiiddpp", &pixels, &plane->height, &plane->width, &plane->top, &plane->left, &plane->full_height,
                          &plane->full_width, &plane->scale_y, &plane->scale_x, &plane->fancy_y, &plane->fancy_x))
        return 0;
    plane->stride = plane->width;
    plane->pixels = hold(held, pixels, "plane", (Py_ssize_t)plane->height * plane->width, 0);
    return plane->pixels != NULL;
}

static PyObject *resize_planes(PyObject *module, PyObject *args) {
    PyObject *list, *out_o, *result = NULL;
    int height, width, flip, kernel, count, ok = 0;
    double box[4];
    (void)module;
    if (!PyArg_ParseTuple(args, "O!(dddd)Oiipi", &PyList_Type, &list, &box[0], &box[1], &box[2], &box[3], &out_o, &height, &width, &flip, &kernel))
        return NULL;
    count = (int)PyList_Size(list);
    if (count != 1 && count != CHANNELS) return PyErr_Format(PyExc_ValueError, "planes: expected 1 or 3, found %d", count);
    Held held = {.held = 0};
    State *state = NULL;
    Plane planes[CHANNELS];
    uint8_t *out;
    for (int i = 0; i < count; i++)
        if (!hold_plane(&held, PyList_GetItem(list, i), planes + i)) goto done;
    if (!(out = hold(&held, out_o, "out", (Py_ssize_t)height * width * CHANNELS, 1)) || !(state = take_state())) goto done;
    Target target = find_target(out, height, width, NULL);
    Py_BEGIN_ALLOW_THREADS
    ok = resample_planes(&state->resampler, planes, count, box, &target, flip, kernel) == 0;
    Py_END_ALLOW_THREADS
    result = ok ? Py_NewRef(Py_None) : PyErr_NoMemory();
done:
    if (state) give_back(state);
    release(&held);
    return result;
}

static PyObject *set_simd(PyObject *module, PyObject *args) {
    (void)module;
    if (!PyArg_ParseTuple(args, "i", &simd_level)) return NULL;
    return PyLong_FromLong(find_simd_level());
}

static PyMethodDef methods[] = {
    {"decode_rgb", decode_rgb, METH_VARARGS, "Decode a whole JPEG; see images/codec.py."},
    {"resize_rgb", resize_rgb, METH_VARARGS, "Resize a decoded image; see images/resampling.py."},
    {"load_crops", load_crops, METH_VARARGS, "Decode and resize boxes of JPEGs; see load/crops.py."},
    {"resize_crops", resize_crops, METH_VARARGS, "Resize boxes of decoded images; see load/crops.py."},
    {"resize_planes", resize_planes, METH_VARARGS, "Resize Y, or Y, Cb and Cr, to RGB; for tests, see images/resampling.py."},
    {"set_simd", set_simd, METH_VARARGS, "Use no wider vectors than 0 (plain), 1 (AVX2), 2 (AVX-512); -1: any; returns what is used. For tests."},
    {"make_seek_entries", make_seek_entries, METH_VARARGS, "Where decoding can start in images, for a set's seek table; see shards/seek.py."},
    {"find_marks", find_marks, METH_O, "Where decoding can start in an image: all its MCUs; see shards/seek.py."},
    {"read_marks", read_marks, METH_VARARGS, "Marks of images from seek tables; see shards/seek.py."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_native", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__native(void) { return PyModule_Create(&definition); }
