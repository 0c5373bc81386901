/* Decodes the part of a JPEG that a crop needs with libjpeg-turbo, and resizes it.
 *
 *   encoded ─► header ─► scale n/8 ─► skip to the box's lines and columns ─► RGB ─► resample.c
 */
#include "turbo.h"

#include <math.h>
#include <setjmp.h>
#include <stdio.h>
#include <time.h>

#include <jpeglib.h>

#ifndef LIBJPEG_TURBO_VERSION_NUMBER
#error "jpeg_crop_scanline and jpeg_skip_scanlines need libjpeg-turbo 1.5 or later"
#endif

enum { MARGIN_PX = 4, EXIF_MARKER = JPEG_APP0 + 1 };
#define WORTH_CROPPING 0.6

double now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

/* libjpeg's errors return here instead of ending the process. */
typedef struct {
    struct jpeg_error_mgr base;
    jmp_buf back;
} Errors;

static void jump_back(j_common_ptr jpeg) { longjmp(((Errors *)jpeg->err)->back, 1); }
static void say_nothing(j_common_ptr jpeg) { (void)jpeg; }

static unsigned read_number(const uint8_t *at, int bytes, int big) {
    unsigned value = 0;
    for (int i = 0; i < bytes; i++) value |= (unsigned)at[big ? bytes - 1 - i : i] << 8 * i;
    return value;
}

int exif_turned(const uint8_t *data, size_t length) {
    if (length < 6 || memcmp(data, "Exif\0", 6)) return -1;
    data += 6, length -= 6;
    if (length < 8) return 1;
    int big = data[0] == 'M';
    unsigned directory = read_number(data + 4, 4, big);
    if (directory > length || length - directory < 2) return 1;
    unsigned entries = read_number(data + directory, 2, big);
    for (unsigned i = 0; i < entries; i++) {
        if (length - directory < 2 + 12 * ((size_t)i + 1)) return 1;
        const uint8_t *entry = data + directory + 2 + 12 * i;
        if (read_number(entry, 2, big) == 0x0112 && read_number(entry + 8, 2, big) != 1) return 1;
    }
    return 0;
}

static int is_turned(const struct jpeg_decompress_struct *jpeg) {
    for (jpeg_saved_marker_ptr marker = jpeg->marker_list; marker; marker = marker->next) {
        int turned = exif_turned(marker->data, marker->data_length);
        if (turned >= 0) return turned;
    }
    return 0;
}

int choose_eighths(const int32_t *box, int height, int width, double oversample) {
    for (int eighths = 1; eighths < 8; eighths *= 2)
        if ((box[2] - box[0]) * eighths >= 8 * oversample * height && (box[3] - box[1]) * eighths >= 8 * oversample * width) return eighths;
    return 8;
}

/* The frames that jpeg_header.py lists, whatever an index says: others have wrong pixels in a part (chroma 4x2 or 2x4), or unknown colours. */
static int is_usual(const struct jpeg_decompress_struct *jpeg) {
    if (jpeg->data_precision != 8 || jpeg->arith_code) return 0;
    const jpeg_component_info *part = jpeg->comp_info;
    if (jpeg->num_components == 1) return jpeg->jpeg_color_space == JCS_GRAYSCALE && part->h_samp_factor == 1 && part->v_samp_factor == 1;
    if (jpeg->num_components != 3 || jpeg->jpeg_color_space != JCS_YCbCr) return 0;
    for (int i = 1; i < 3; i++)
        if (part[i].h_samp_factor != 1 || part[i].v_samp_factor != 1) return 0;
    return part->h_samp_factor <= 2 && part->v_samp_factor <= part->h_samp_factor; /* 4:4:4, 4:2:2, 4:2:0 */
}

/* A decompressor, and buffers that are kept from image to image. */
struct Turbo {
    struct jpeg_decompress_struct jpeg;
    Errors errors;
    Buffer decoded, pointers;
};

static int create(Turbo *turbo) {
    if (setjmp(turbo->errors.back)) return 0; /* libjpeg has no memory */
    jpeg_create_decompress(&turbo->jpeg);
    jpeg_save_markers(&turbo->jpeg, EXIF_MARKER, 0xFFFF);
    return 1;
}

Turbo *open_turbo(void) {
    Turbo *turbo = calloc(1, sizeof *turbo);
    if (!turbo) return NULL;
    turbo->jpeg.err = jpeg_std_error(&turbo->errors.base);
    turbo->errors.base.error_exit = jump_back;
    turbo->errors.base.output_message = say_nothing;
    if (create(turbo)) return turbo;
    free(turbo);
    return NULL;
}

void close_turbo(Turbo *turbo) {
    if (!turbo) return;
    jpeg_destroy_decompress(&turbo->jpeg);
    free(turbo->decoded.data);
    free(turbo->pointers.data);
    free(turbo);
}

size_t turbo_bytes(const Turbo *turbo) { return turbo->decoded.size + turbo->pointers.size; }

int turbo_load(Turbo *turbo, Resampler *resampler, const uint8_t *encoded, size_t length, const int32_t *box, const int32_t *size, int flip,
               const Target *target, double oversample, double *seconds) {
    struct jpeg_decompress_struct *jpeg = &turbo->jpeg;
    Errors *errors = &turbo->errors;
    double started = now_s();
    if (setjmp(errors->back)) {
        jpeg_abort_decompress(jpeg);
        return NOT_FOR_US;
    }
    errors->base.num_warnings = 0;
    jpeg_mem_src(jpeg, encoded, length);
    jpeg_read_header(jpeg, TRUE);
    if (!is_usual(jpeg) || (int)jpeg->image_height != size[0] || (int)jpeg->image_width != size[1] || is_turned(jpeg)) {
        jpeg_abort_decompress(jpeg);
        return NOT_FOR_US;
    }
    int eighths = choose_eighths(box, target->height, target->width, oversample);
    jpeg->scale_num = eighths;
    jpeg->scale_denom = 8;
    jpeg->out_color_space = JCS_RGB;
    jpeg_start_decompress(jpeg);
    double inner[4];
    for (int i = 0; i < 4; i++) inner[i] = box[i] * eighths / 8.0;
    JDIMENSION top = (JDIMENSION)inner[0], bottom = (JDIMENSION)ceil(inner[2]), left = (JDIMENSION)inner[1];
    /* Chroma is interpolated between neighbours, which are missing at the edge of the decoded part. */
    left = left > MARGIN_PX ? left - MARGIN_PX : 0;
    JDIMENSION columns = (JDIMENSION)ceil(inner[3]) + MARGIN_PX - left;
    if (left + columns > jpeg->output_width) columns = jpeg->output_width - left;
    if (columns > WORTH_CROPPING * jpeg->output_width) /* cropping costs a tenth of the decoding time, and saves less than its share */
        left = 0, columns = jpeg->output_width;
    else
        jpeg_crop_scanline(jpeg, &left, &columns);
    size_t stride = (size_t)columns * CHANNELS, lines = bottom - top;
    if (!reserve(&turbo->decoded, stride * lines) || !reserve(&turbo->pointers, lines * sizeof(JSAMPROW))) {
        jpeg_abort_decompress(jpeg);
        return NO_MEMORY;
    }
    JSAMPROW *rows = turbo->pointers.data;
    for (size_t y = 0; y < lines; y++) rows[y] = (uint8_t *)turbo->decoded.data + y * stride;
    if (top) jpeg_skip_scanlines(jpeg, top);
    while (jpeg->output_scanline < bottom) jpeg_read_scanlines(jpeg, rows + (jpeg->output_scanline - top), bottom - jpeg->output_scanline);
    int damaged = errors->base.num_warnings > 0;
    jpeg_abort_decompress(jpeg); /* the lines below the box need not be decoded */
    double decoded = now_s();
    seconds[1] += decoded - started;
    if (damaged) return NOT_FOR_US;
    for (int i = 0; i < 4; i++) inner[i] -= i % 2 ? left : top;
    if (resample_rgb(resampler, turbo->decoded.data, stride, inner, target, flip, TRIANGLE)) return NO_MEMORY;
    seconds[2] += now_s() - decoded;
    return 0;
}
