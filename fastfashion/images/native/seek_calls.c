/* Python's calls for seek tables: make the entries of images, find their marks again; shards/seek.py uses them. */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030b0000
#include <Python.h>

#include "seek_calls.h"

enum { END_BYTES = 4 }; /* of the number that says where an entry ends */

/* The marks of every n-th MCU of an image of `size` bytes whose header was read, in `memory`; returns their number, -NOT_FOR_US or -NO_MEMORY.
 * An MCU has two bits at least: a header that says there are more lies, and no memory is taken for it. */
static ptrdiff_t find_every(Jpeg *jpeg, int every, size_t size, Buffer *memory) {
    const JpegHeader *header = baseline_header(jpeg);
    size_t mcus = (size_t)header->mcus_across * header->mcus_down;
    if (header->restarts || mcus > 4 * size) return -NOT_FOR_US;
    if (!reserve(memory, (mcus / every + 1) * sizeof(Mark))) return -NO_MEMORY;
    return baseline_find_marks(jpeg, every, memory->data);
}

/* The size of the entry of one image, 0 if it has none, or -NO_MEMORY. Only the header of an image without one is read. */
static ptrdiff_t make_entry(Jpeg *jpeg, const Py_buffer *image, double share, Buffer *memory, Buffer *entry) {
    size_t limit = (size_t)(image->len * share);
    limit = limit > END_BYTES ? limit - END_BYTES : 0;
    int status = baseline_read_header(jpeg, image->buf, (size_t)image->len);
    if (status) return status == NO_MEMORY ? -NO_MEMORY : 0;
    const JpegHeader *header = baseline_header(jpeg);
    if (header->turned || !seek_is_wide(header->mcus_across)) return 0;
    ptrdiff_t count = find_every(jpeg, SEEK_NEAR, (size_t)image->len, memory);
    if (count < 0) return count == -NO_MEMORY ? count : 0;
    if (!reserve(entry, limit + 1)) return -NO_MEMORY;
    return (ptrdiff_t)seek_pack(memory->data, (size_t)count, limit, entry->data);
}

PyObject *make_seek_entries(PyObject *module, PyObject *args) {
    PyObject *list, *made = NULL;
    double share;
    (void)module;
    if (!PyArg_ParseTuple(args, "O!d", &PyList_Type, &list, &share)) return NULL;
    if (!(share >= 0 && share <= 1)) return PyErr_Format(PyExc_ValueError, "share: expected 0 to 1");
    Py_ssize_t count = PyList_Size(list);
    Buffer memory = {0}, entry = {0};
    Jpeg *jpeg = open_baseline();
    if (!jpeg || !(made = PyList_New(count))) {
        if (!PyErr_Occurred()) PyErr_NoMemory();
        goto done;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        Py_buffer image;
        ptrdiff_t size;
        PyObject *item = PyList_GetItem(list, i);
        if (!item || PyObject_GetBuffer(item, &image, PyBUF_C_CONTIGUOUS) < 0) goto failed; /* this lock is released in between */
        Py_BEGIN_ALLOW_THREADS
        size = make_entry(jpeg, &image, share, &memory, &entry);
        Py_END_ALLOW_THREADS
        PyBuffer_Release(&image);
        PyObject *bytes = size < 0 ? PyErr_NoMemory() : PyBytes_FromStringAndSize(entry.data, size);
        if (!bytes || PyList_SetItem(made, i, bytes) < 0) goto failed;
    }
    goto done;
failed:
    Py_CLEAR(made);
done:
    close_baseline(jpeg);
    free(memory.data);
    free(entry.data);
    return made;
}

PyObject *find_marks(PyObject *module, PyObject *data) {
    Buffer memory = {0};
    Py_buffer image;
    (void)module;
    if (PyObject_GetBuffer(data, &image, PyBUF_C_CONTIGUOUS) < 0) return NULL;
    Jpeg *jpeg = open_baseline();
    ptrdiff_t count = jpeg ? -baseline_read_header(jpeg, image.buf, (size_t)image.len) : -NO_MEMORY;
    if (count == 0) count = find_every(jpeg, 1, (size_t)image.len, &memory);
    PyObject *found = count == -NO_MEMORY ? PyErr_NoMemory()
                      : count < 0         ? Py_NewRef(Py_None)
                                          : PyBytes_FromStringAndSize(memory.data, count * (Py_ssize_t)sizeof(Mark));
    close_baseline(jpeg);
    PyBuffer_Release(&image);
    free(memory.data);
    return found;
}

/* Entries of images within tables; `sizes` are 0 where there is none. The views of the tables are held until the marks are read. */
typedef struct {
    Py_buffer table;
    const uint8_t *entry;
    size_t size;
} Found;

static PyObject *unpack_all(const Found *found, Py_ssize_t count) {
    size_t most = 0;
    for (Py_ssize_t i = 0; i < count; i++) most += seek_count(found[i].entry, found[i].size);
    Mark *marks = malloc((most ? most : 1) * sizeof *marks);
    int64_t *first = malloc((size_t)(count + 1) * sizeof *first);
    PyObject *result = NULL;
    if (marks && first) {
        size_t at = 0;
        for (Py_ssize_t i = 0; i < count; i++) {
            first[i] = (int64_t)at;
            at += seek_unpack(found[i].entry, found[i].size, marks + at, most - at);
        }
        first[count] = (int64_t)at;
        PyObject *all = PyBytes_FromStringAndSize((const char *)marks, (Py_ssize_t)(at * sizeof *marks));
        PyObject *starts = PyBytes_FromStringAndSize((const char *)first, (count + 1) * (Py_ssize_t)sizeof *first);
        if (all && starts) result = PyTuple_Pack(2, all, starts);
        Py_XDECREF(all);
        Py_XDECREF(starts);
    } else {
        PyErr_NoMemory();
    }
    free(marks);
    free(first);
    return result;
}

PyObject *read_marks(PyObject *module, PyObject *args) {
    PyObject *tables, *places_o, *result = NULL;
    Py_buffer places;
    (void)module;
    if (!PyArg_ParseTuple(args, "O!O", &PyList_Type, &tables, &places_o) || PyObject_GetBuffer(places_o, &places, PyBUF_C_CONTIGUOUS) < 0) return NULL;
    Py_ssize_t count = PyList_Size(tables), opened = 0;
    Found *found = calloc((size_t)count + 1, sizeof *found);
    if (!found) {
        PyErr_NoMemory();
        goto done;
    }
    if (places.len != count * (Py_ssize_t)sizeof(int64_t)) {
        PyErr_Format(PyExc_ValueError, "places: expected %zd bytes, found %zd", count * (Py_ssize_t)sizeof(int64_t), places.len);
        goto done;
    }
    for (; opened < count; opened++) {
        Found *one = found + opened;
        PyObject *table = PyList_GetItem(tables, opened);
        int64_t place = ((const int64_t *)places.buf)[opened];
        if (!table || table == Py_None) continue;
        if (PyObject_GetBuffer(table, &one->table, PyBUF_C_CONTIGUOUS) < 0) goto done;
        if (place >= 0) one->size = seek_find(one->table.buf, one->table.len, (size_t)place, &one->entry);
    }
    result = unpack_all(found, count);
done:
    while (opened--)
        if (found[opened].table.obj) PyBuffer_Release(&found[opened].table);
    free(found);
    PyBuffer_Release(&places);
    return result;
}
