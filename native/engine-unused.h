/*
 * Functions of the engine that nothing of ours calls, made by native/unused-builtins.mjs; beside each how scripts
 * would call it.
 */
/* clang-format off */
#define UNUSED_js_array_of ~, ~ /* Array.of */
#define UNUSED_js_array_toReversed ~, ~ /* .toReversed */
#define UNUSED_js_array_toSorted ~, ~ /* .toSorted */
#define UNUSED_js_array_toSpliced ~, ~ /* .toSpliced */
#define UNUSED_js_atomics_isLockFree ~, ~ /* Atomics.isLockFree */
#define UNUSED_js_atomics_notify ~, ~ /* Atomics.notify */
#define UNUSED_js_atomics_op ~, ~ /* Atomics.add Atomics.and Atomics.or Atomics.sub Atomics.xor Atomics.exchange Atomics.compareExchange Atomics.load */
#define UNUSED_js_atomics_wait ~, ~ /* Atomics.wait */
#define UNUSED_js_bigint_asUintN ~, ~ /* BigInt.asUintN BigInt.asIntN */
#define UNUSED_js_global_decodeURI ~, ~ /* decodeURI decodeURIComponent */
#define UNUSED_js_global_encodeURI ~, ~ /* encodeURI encodeURIComponent */
#define UNUSED_js_global_escape ~, ~ /* escape */
#define UNUSED_js_global_isFinite ~, ~ /* isFinite */
#define UNUSED_js_global_isNaN ~, ~ /* isNaN */
#define UNUSED_js_global_unescape ~, ~ /* unescape */
#define UNUSED_js_math_hypot ~, ~ /* Math.hypot */
#define UNUSED_js_math_random ~, ~ /* Math.random */
#define UNUSED_js_number_isFinite ~, ~ /* Number.isFinite */
#define UNUSED_js_number_isNaN ~, ~ /* Number.isNaN */
#define UNUSED_js_number_isSafeInteger ~, ~ /* Number.isSafeInteger */
#define UNUSED_js_number_toExponential ~, ~ /* .toExponential */
#define UNUSED_js_number_toPrecision ~, ~ /* .toPrecision */
#define UNUSED_js_object___defineGetter__ ~, ~ /* .__defineGetter__ .__defineSetter__ */
#define UNUSED_js_object___lookupGetter__ ~, ~ /* .__lookupGetter__ .__lookupSetter__ */
#define UNUSED_js_object_create ~, ~ /* Object.create */
#define UNUSED_js_object_defineProperties ~, ~ /* Object.defineProperties */
#define UNUSED_js_object_defineProperty ~, ~ /* Object.defineProperty Reflect.defineProperty */
#define UNUSED_js_object_getOwnPropertyDescriptor ~, ~ /* Object.getOwnPropertyDescriptor Reflect.getOwnPropertyDescriptor */
#define UNUSED_js_object_getOwnPropertyDescriptors ~, ~ /* Object.getOwnPropertyDescriptors */
#define UNUSED_js_object_getOwnPropertyNames ~, ~ /* Object.getOwnPropertyNames */
#define UNUSED_js_object_getOwnPropertySymbols ~, ~ /* Object.getOwnPropertySymbols */
#define UNUSED_js_object_getPrototypeOf ~, ~ /* Object.getPrototypeOf Reflect.getPrototypeOf */
#define UNUSED_js_object_groupBy ~, ~ /* Object.groupBy Map.groupBy */
#define UNUSED_js_object_hasOwnProperty ~, ~ /* .hasOwnProperty */
#define UNUSED_js_object_isExtensible ~, ~ /* Object.isExtensible Reflect.isExtensible */
#define UNUSED_js_object_isPrototypeOf ~, ~ /* .isPrototypeOf */
#define UNUSED_js_object_isSealed ~, ~ /* Object.isSealed Object.isFrozen */
#define UNUSED_js_object_preventExtensions ~, ~ /* Object.preventExtensions Reflect.preventExtensions */
#define UNUSED_js_object_propertyIsEnumerable ~, ~ /* .propertyIsEnumerable */
#define UNUSED_js_object_seal ~, ~ /* Object.seal Object.freeze */
#define UNUSED_js_object_setPrototypeOf ~, ~ /* Object.setPrototypeOf */
#define UNUSED_js_parseFloat ~, ~ /* parseFloat */
#define UNUSED_js_promise_all ~, ~ /* Promise.all Promise.allSettled Promise.any */
#define UNUSED_js_promise_catch ~, ~ /* .catch */
#define UNUSED_js_promise_finally ~, ~ /* .finally */
#define UNUSED_js_promise_race ~, ~ /* Promise.race */
#define UNUSED_js_promise_withResolvers ~, ~ /* Promise.withResolvers */
#define UNUSED_js_reflect_apply ~, ~ /* Reflect.apply */
#define UNUSED_js_reflect_construct ~, ~ /* Reflect.construct */
#define UNUSED_js_reflect_deleteProperty ~, ~ /* Reflect.deleteProperty */
#define UNUSED_js_reflect_get ~, ~ /* Reflect.get */
#define UNUSED_js_reflect_has ~, ~ /* Reflect.has */
#define UNUSED_js_reflect_ownKeys ~, ~ /* Reflect.ownKeys */
#define UNUSED_js_reflect_set ~, ~ /* Reflect.set */
#define UNUSED_js_reflect_setPrototypeOf ~, ~ /* Reflect.setPrototypeOf */
#define UNUSED_js_regexp_Symbol_matchAll ~, ~ /* .matchAll */
#define UNUSED_js_regexp_Symbol_search ~, ~ /* .search */
#define UNUSED_js_regexp_Symbol_split ~, ~ /* .split */
#define UNUSED_js_regexp_compile ~, ~ /* .compile */
#define UNUSED_js_string_codePointAt ~, ~ /* .codePointAt */
#define UNUSED_js_string_fromCodePoint ~, ~ /* String.fromCodePoint */
#define UNUSED_js_string_isWellFormed ~, ~ /* .isWellFormed */
#define UNUSED_js_string_raw ~, ~ /* String.raw */
#define UNUSED_js_string_substr ~, ~ /* .substr */
#define UNUSED_js_string_substring ~, ~ /* .substring */
#define UNUSED_js_string_toWellFormed ~, ~ /* .toWellFormed */
#define UNUSED_js_symbol_for ~, ~ /* Symbol.for */
#define UNUSED_js_symbol_get_description ~, ~ /* .description */
#define UNUSED_js_symbol_keyFor ~, ~ /* Symbol.keyFor */
#define UNUSED_js_typed_array_toReversed ~, ~ /* .toReversed */
#define UNUSED_js_typed_array_toSorted ~, ~ /* .toSorted */
