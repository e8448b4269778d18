/* SPDX-License-Identifier: Apache-2.0
 *
 * json.h - a parsed JSON document, and the host service "mrun.json/1" that reads it by path.
 * Invariant: a document that parsed is valid UTF-8 and has no duplicate keys. The document is
 * jansson's json_t, so that files below core/ may also walk it with jansson.
 */
#ifndef MRI_JSON_H
#define MRI_JSON_H
#include "core/base/base.h"
#include "mrun/model.h"

typedef struct json_t mri_json;

/* `name` stands in messages as NAME:LINE:COLUMN. MR_E_STORE_FORMAT on bad text. */
mr_status mri_json_parse(const char *text, size_t n, const char *name, mri_json **out, mr_err *err);
/* a file of at most `limit` bytes */
mr_status mri_json_read(const char *path, size_t limit, mri_json **out, mr_err *err);
void mri_json_free(mri_json *json);

/* What mr_host.ext(MR_EXT_JSON) answers. A path's segment is a key of an object, or an index
 * of an array; the empty path is the document itself. */
extern const mr_json_service mri_json_service;

#endif
