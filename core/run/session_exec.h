/* SPDX-License-Identifier: Apache-2.0
 *
 * session_exec.h - from a model and a mode to an exec: assemble, keep chosen layers exact, cut the
 * blocks for this rank, cut the model to its stage, lay the parameters out, plan.
 *
 * Invariant: that order. What cuts a block reads whole types, so it comes before stages and
 * parameters, which take local ones; the first exec made fixes the parameters' layout for all.
 */
#ifndef MRI_SESSION_EXEC_H
#define MRI_SESSION_EXEC_H
#include "session.h"

/* All parameters of a mode by name and type, before any exec: of a session that only describes, and
 * of a model of pictures, where with pictures in none of a job's execs, or apart from the text
 * (decode), no exec has them all. (Training on text alone is of text alone.) */
mr_status mri_session_describe(mri_session *s, const char *mode, mr_err *err);
/* The exec of a mode, of so many tokens of the whole micro-batch. */
mr_status mri_session_make_exec(mri_session *s, const mri_session_options *o, const char *mode,
                                int64_t tokens, mri_exec **out, mr_err *err);

#endif
