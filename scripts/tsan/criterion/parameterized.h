/* SPDX-License-Identifier: MIT */
/* scripts/tsan/criterion/parameterized.h - see criterion.h beside it. */
#pragma once

#include "criterion.h"

#define cr_make_param_array(type, array, count, ...) \
  (struct criterion_test_params) { sizeof(type), (void *)(array), (count), ##__VA_ARGS__ }

#define ParameterizedTestParameters(s, n) static struct criterion_test_params tsan_params_##s##_##n(void)

#define ParameterizedTest(param, s, n, ...) \
  static void tsan_body_##s##_##n(param); \
  static void tsan_run_##s##_##n(void *p) { tsan_body_##s##_##n(p); } \
  TSAN_REGISTER(s, n, #n, tsan_run_##s##_##n, tsan_params_##s##_##n, __VA_ARGS__) \
  static void tsan_body_##s##_##n(param)
