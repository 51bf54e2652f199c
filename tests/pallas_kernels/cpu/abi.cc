// Compiles only if the structs of xla_ffi.h have the offsets that jaxlib's own header gives them.
#include <cstddef>

#include "xla/ffi/api/c_api.h"
#include "xla_ffi.h"

#define SAME(ours, our_field, theirs, their_field) \
  static_assert(offsetof(lynx::ffi::ours, our_field) == offsetof(theirs, their_field), #ours "." #our_field)

// Renamed in jax 0.11.
#if XLA_FFI_API_MINOR >= 4
typedef XLA_FFI_InternalExtension Extension;
#else
typedef XLA_FFI_Extension_Base Extension;
#endif
SAME(ExtensionBase, type, Extension, type);
SAME(ExtensionBase, next, Extension, next);
SAME(ApiVersion, major_version, XLA_FFI_Api_Version, major_version);
SAME(ApiVersion, minor_version, XLA_FFI_Api_Version, minor_version);
SAME(ErrorCreateArgs, message, XLA_FFI_Error_Create_Args, message);
SAME(ErrorCreateArgs, code, XLA_FFI_Error_Create_Args, errc);
SAME(Api, api_version, XLA_FFI_Api, api_version);
SAME(Api, error_create, XLA_FFI_Api, XLA_FFI_Error_Create);
SAME(Buffer, dtype, XLA_FFI_Buffer, dtype);
SAME(Buffer, data, XLA_FFI_Buffer, data);
SAME(Buffer, rank, XLA_FFI_Buffer, rank);
SAME(Buffer, dims, XLA_FFI_Buffer, dims);
SAME(ByteSpan, ptr, XLA_FFI_ByteSpan, ptr);
SAME(ByteSpan, len, XLA_FFI_ByteSpan, len);
SAME(Scalar, value, XLA_FFI_Scalar, value);
SAME(Buffers, size, XLA_FFI_Args, size);
SAME(Buffers, buffers, XLA_FFI_Args, args);
SAME(Buffers, size, XLA_FFI_Rets, size);
SAME(Buffers, buffers, XLA_FFI_Rets, rets);
SAME(Attributes, size, XLA_FFI_Attrs, size);
SAME(Attributes, types, XLA_FFI_Attrs, types);
SAME(Attributes, names, XLA_FFI_Attrs, names);
SAME(Attributes, values, XLA_FFI_Attrs, attrs);
SAME(CallFrame, api, XLA_FFI_CallFrame, api);
SAME(CallFrame, stage, XLA_FFI_CallFrame, stage);
SAME(CallFrame, args, XLA_FFI_CallFrame, args);
SAME(CallFrame, results, XLA_FFI_CallFrame, rets);
SAME(CallFrame, attributes, XLA_FFI_CallFrame, attrs);
SAME(Metadata, api_version, XLA_FFI_Metadata, api_version);
SAME(Metadata, traits, XLA_FFI_Metadata, traits);
SAME(MetadataExtension, metadata, XLA_FFI_Metadata_Extension, metadata);

static_assert(lynx::ffi::kMajorVersion == XLA_FFI_API_MAJOR);
static_assert(lynx::ffi::kMetadataExtension == XLA_FFI_Extension_Metadata);
static_assert(lynx::ffi::kExecute == XLA_FFI_ExecutionStage_EXECUTE);
static_assert(lynx::ffi::kScalarAttribute == XLA_FFI_AttrType_SCALAR);
static_assert(lynx::ffi::kPred == XLA_FFI_DataType_PRED);
static_assert(lynx::ffi::kInt8 == XLA_FFI_DataType_S8);
static_assert(lynx::ffi::kUint8 == XLA_FFI_DataType_U8);
static_assert(lynx::ffi::kFloat16 == XLA_FFI_DataType_F16);
static_assert(lynx::ffi::kInt32 == XLA_FFI_DataType_S32);
static_assert(lynx::ffi::kFloat32 == XLA_FFI_DataType_F32);
static_assert(lynx::ffi::kUint16 == XLA_FFI_DataType_U16);
static_assert(lynx::ffi::kBfloat16 == XLA_FFI_DataType_BF16);
