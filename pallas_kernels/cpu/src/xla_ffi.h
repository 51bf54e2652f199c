// The part of XLA's foreign function interface that the handlers use. jaxlib ships a header of all of it, but we
// declare our own: `pip` builds the library in an environment without jaxlib, and one library serves every supported
// jaxlib. The interface is a C ABI whose structs begin with their size and only grow at the end.
// tests/pallas_kernels/cpu/abi.cc compares every offset with the installed jaxlib's header (xla/ffi/api/c_api.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace lynx::ffi {

struct ExtensionBase {
  size_t struct_size;
  int32_t type;
  ExtensionBase* next;
};

struct ApiVersion {
  size_t struct_size;
  ExtensionBase* extension_start;
  int major_version;
  int minor_version;
};

struct Error;

struct ErrorCreateArgs {
  size_t struct_size;
  ExtensionBase* extension_start;
  const char* message;
  int32_t code;
};

struct Api {
  size_t struct_size;
  ExtensionBase* extension_start;
  ApiVersion api_version;
  const void* internal_api;
  Error* (*error_create)(ErrorCreateArgs*);
};

struct Buffer {
  size_t struct_size;
  ExtensionBase* extension_start;
  int32_t dtype;
  void* data;
  int64_t rank;
  int64_t* dims;
};

struct ByteSpan {
  const char* ptr;
  size_t len;
};

struct Scalar {
  int32_t dtype;
  void* value;
};

// Arguments and results have the same layout.
struct Buffers {
  size_t struct_size;
  ExtensionBase* extension_start;
  int64_t size;
  int32_t* types;
  Buffer** buffers;
};

struct Attributes {
  size_t struct_size;
  ExtensionBase* extension_start;
  int64_t size;
  int32_t* types;
  ByteSpan** names;
  void** values;
};

struct CallFrame {
  size_t struct_size;
  ExtensionBase* extension_start;
  const Api* api;
  void* context;
  int32_t stage;
  Buffers args;
  Buffers results;
  Attributes attributes;
};

struct Metadata {
  size_t struct_size;
  ApiVersion api_version;
  uint32_t traits;
};

struct MetadataExtension {
  ExtensionBase base;
  Metadata* metadata;
};

constexpr int32_t kMetadataExtension = 1;
constexpr int32_t kExecute = 3;
constexpr int kMajorVersion = 0;
constexpr int32_t kScalarAttribute = 3;

enum DataType : int32_t {
  kPred = 1,
  kInt8 = 2,
  kInt32 = 4,
  kUint8 = 6,
  kUint16 = 7,
  kFloat16 = 10,
  kFloat32 = 11,
  kBfloat16 = 16
};

// The buffers and attributes of one call. Python checks the shapes before it makes the call.
class Call {
 public:
  explicit Call(const CallFrame* frame) : frame_(frame) {}

  const Buffer& arg(int64_t index) const { return *frame_->args.buffers[index]; }
  const Buffer& result(int64_t index) const { return *frame_->results.buffers[index]; }
  int64_t args() const { return frame_->args.size; }
  int64_t results() const { return frame_->results.size; }

  template <class T>
  const T* data(int64_t index) const {
    return static_cast<const T*>(arg(index).data);
  }

  // The scalar attribute of that name, or `otherwise` if the call has none.
  template <class T>
  T attribute(const char* name, T otherwise) const {
    const Attributes& all = frame_->attributes;
    for (int64_t i = 0; i < all.size; ++i) {
      const ByteSpan& span = *all.names[i];
      if (all.types[i] == kScalarAttribute && span.len == std::strlen(name) &&
          std::memcmp(span.ptr, name, span.len) == 0) {
        T value;
        std::memcpy(&value, static_cast<const Scalar*>(all.values[i])->value, sizeof(T));
        return value;
      }
    }
    return otherwise;
  }

  Error* error(const char* message) const {
    constexpr int32_t kInvalidArgument = 3;
    ErrorCreateArgs args{sizeof(ErrorCreateArgs), nullptr, message, kInvalidArgument};
    return frame_->api->error_create(&args);
  }

 private:
  const CallFrame* frame_;
};

// Handles one call of XLA. If it asks for the interface's version, the answer is XLA's own minor version, because all
// minor versions have the parts used here. XLA refuses a library of another major version. Otherwise it runs
// body(Call), which returns null or an error.
template <class Body>
Error* handle(CallFrame* frame, const Body& body) {
  const ExtensionBase* extension = frame->extension_start;
  if (extension != nullptr && extension->type == kMetadataExtension) {
    Metadata* metadata = reinterpret_cast<MetadataExtension*>(frame->extension_start)->metadata;
    metadata->api_version.major_version = kMajorVersion;
    metadata->api_version.minor_version = frame->api->api_version.minor_version;
    metadata->traits = 0;
    return nullptr;
  }
  if (frame->struct_size < sizeof(CallFrame)) return Call(frame).error("lynx: this XLA's call frame is too small");
  return frame->stage == kExecute ? body(Call(frame)) : nullptr;
}

}  // namespace lynx::ffi
