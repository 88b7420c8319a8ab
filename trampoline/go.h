/* SPDX-License-Identifier: MIT */
/* trampoline/go.h - functions of a Go program, from its own table (.gopclntab); see fl_object_go. */
#pragma once

#include "object.h"

bool fl_go_function(const struct fl_object *o, uintptr_t pc, struct fl_function *f);
