/* SPDX-License-Identifier: Apache-2.0
 *
 * train.h - what job `train` asks of a session, for those who plan it without running it.
 */
#ifndef MRUN_TRAIN_H
#define MRUN_TRAIN_H
#include "core/run/session.h"

mri_session_options app_train_options(const mri_config *c);

#endif
