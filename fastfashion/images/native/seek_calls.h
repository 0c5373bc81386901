/* Python's calls for seek tables: seek_calls.c. Python.h must be included first. */
#ifndef FASTFASHION_SEEK_CALLS_H
#define FASTFASHION_SEEK_CALLS_H

#include "seek.h"

/* (list of encoded images, largest share of an image's bytes) -> a list of entries, bytes; empty for images without one. */
PyObject *make_seek_entries(PyObject *module, PyObject *args);

/* (encoded image) -> bytes, int32 (MCUs - 1, 5): the marks of all MCUs but the first; None for an image that has no marks. */
PyObject *find_marks(PyObject *module, PyObject *data);

/* (list of tables or None, places int64 (n,)) -> (bytes, int32 (m, 5); bytes, int64 (n + 1,)): those of image i are first[i] to first[i + 1]. */
PyObject *read_marks(PyObject *module, PyObject *args);

#endif
