// A pretend GPU: a PyTorch device whose memory is the CPU's, with a GPU's rules about devices.
//
// The CPU computes, so every result is the CPU's to the bit.  What a GPU would refuse is refused:
// operations on tensors of two devices, generators of another device.  What would cost time there is
// counted: kernels, waits for a number, copies to and from the device.
#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/native/Resize.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/set_native.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <map>
#include <set>

using namespace at;

namespace pretend {

constexpr auto PRETEND = c10::DeviceType::PrivateUse1;
const Device DEVICE(PRETEND, 0);

bool on_device(const Tensor& t) { return t.device().type() == PRETEND; }

// --- what is counted ------------------------------------------------------------------------------

std::map<std::string, int64_t> kernels;
int64_t waits = 0, uploads = 0, downloads = 0;
thread_local int pretending = 0;  // copies of the pretence itself are not the program's

struct Pretence {
  Pretence() { pretending++; }
  ~Pretence() { pretending--; }
};

// Operations whose result has a size, or is a number, that the CPU must wait for.
const std::set<std::string> WAITING = {
    "aten::_local_scalar_dense", "aten::nonzero",  "aten::masked_select",
    "aten::equal",               "aten::bincount", "aten::_unique2",
    "aten::repeat_interleave.Tensor"};

// --- memory ---------------------------------------------------------------------------------------

struct Memory final : c10::Allocator {
  DataPtr allocate(size_t bytes) override {
    void* data = bytes ? malloc(bytes) : nullptr;
    return {data, data, &free, DEVICE};
  }
  DeleterFnPtr raw_deleter() const override { return &free; }
  void copy_data(void* to, const void* from, size_t bytes) const override { memcpy(to, from, bytes); }
};
Memory memory;
REGISTER_ALLOCATOR(PRETEND, &memory);

void resize_storage(const c10::Storage& storage, size_t bytes) {
  auto* impl = storage.unsafeGetStorageImpl();
  DataPtr data = memory.allocate(bytes);
  if (impl->nbytes() && bytes) memcpy(data.mutable_get(), impl->data(), std::min(impl->nbytes(), bytes));
  impl->set_data_ptr_noswap(std::move(data));
  impl->set_nbytes(bytes);
}

// The same memory, seen by the CPU.
Tensor on_cpu(const Tensor& t) {
  if (!t.defined() || !on_device(t)) return t;
  auto options = TensorOptions().dtype(t.dtype()).device(kCPU);
  if (t.numel() == 0) return at::empty_strided(t.sizes(), t.strides(), options);
  auto keep = [t](void*) {};
  return at::from_blob(const_cast<void*>(t.const_data_ptr()), t.sizes(), t.strides(), keep, options);
}

// --- generators, guards, hooks --------------------------------------------------------------------

struct PretendGenerator final : c10::GeneratorImpl {
  Generator cpu = at::detail::createCPUGenerator();
  PretendGenerator() : GeneratorImpl(DEVICE, DispatchKeySet(c10::DispatchKey::PrivateUse1)) {}
  void set_current_seed(uint64_t seed) override { cpu.set_current_seed(seed); }
  uint64_t current_seed() const override { return cpu.current_seed(); }
  uint64_t seed() override { return cpu.seed(); }
  void set_offset(uint64_t) override {}
  uint64_t get_offset() const override { return 0; }
  void set_state(const c10::TensorImpl& state) override { cpu.unsafeGetGeneratorImpl()->set_state(state); }
  c10::intrusive_ptr<c10::TensorImpl> get_state() const override {
    return cpu.unsafeGetGeneratorImpl()->get_state();
  }
  PretendGenerator* clone_impl() const override {
    auto* copy = new PretendGenerator();
    copy->cpu = cpu.clone();
    return copy;
  }
};

Generator& default_generator() {
  static Generator generator = at::make_generator<PretendGenerator>();
  return generator;
}

Generator cpu_generator(const Generator& generator) {
  return static_cast<PretendGenerator*>(generator.unsafeGetGeneratorImpl())->cpu;
}

struct Guard final : c10::impl::DeviceGuardImplInterface {
  static c10::Stream stream() { return c10::Stream(c10::Stream::DEFAULT, DEVICE); }
  c10::DeviceType type() const override { return PRETEND; }
  Device exchangeDevice(Device) const override { return DEVICE; }
  Device getDevice() const override { return DEVICE; }
  void setDevice(Device) const override {}
  void uncheckedSetDevice(Device) const noexcept override {}
  c10::Stream getStream(Device) const override { return stream(); }
  c10::Stream getDefaultStream(Device) const override { return stream(); }
  c10::Stream exchangeStream(c10::Stream) const override { return stream(); }
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
  void record(void**, const c10::Stream&, const c10::DeviceIndex, const c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  bool queryStream(const c10::Stream&) const override { return true; }
  void synchronizeStream(const c10::Stream&) const override {}
  void synchronizeDevice(const c10::DeviceIndex) const override {}
};
C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard);

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  const Generator& getDefaultGenerator(DeviceIndex) const override { return default_generator(); }
  Generator getNewGenerator(DeviceIndex) const override { return at::make_generator<PretendGenerator>(); }
  DeviceIndex deviceCount() const override { return 1; }
  DeviceIndex getCurrentDevice() const override { return 0; }
  Device getDeviceFromPtr(void*) const override { return DEVICE; }
  void resizePrivateUse1Bytes(const c10::Storage& storage, size_t bytes) const override {
    resize_storage(storage, bytes);
  }
};
[[maybe_unused]] const bool registered = [] {
  at::RegisterPrivateUse1HooksInterface(new Hooks());
  return true;
}();

// --- operations that are the device's own ---------------------------------------------------------

Tensor empty(IntArrayRef size, std::optional<ScalarType> dtype, std::optional<Layout>, std::optional<Device>,
             std::optional<bool>, std::optional<MemoryFormat> format) {
  DispatchKeySet key(c10::DispatchKey::PrivateUse1);
  return at::detail::empty_generic(size, &memory, key, c10::dtype_or_default(dtype), format);
}

Tensor empty_strided(IntArrayRef size, IntArrayRef stride, std::optional<ScalarType> dtype, std::optional<Layout>,
                     std::optional<Device>, std::optional<bool>) {
  DispatchKeySet key(c10::DispatchKey::PrivateUse1);
  return at::detail::empty_strided_generic(size, stride, &memory, key, c10::dtype_or_default(dtype));
}

Tensor copy_from(const Tensor& from, const Tensor& to, bool) {
  if (!pretending) {
    if (on_device(from) && on_device(to)) kernels["copy"]++;
    else (on_device(to) ? uploads : downloads)++;
  }
  Pretence here;
  on_cpu(to).copy_(on_cpu(from));
  return to;
}

Tensor copy_from_and_resize(const Tensor& from, const Tensor& to) {
  at::native::resize_(to, from.sizes(), std::nullopt);
  return copy_from(from, to, false);
}

const Tensor& resize(const Tensor& self, c10::SymIntArrayRef size, std::optional<MemoryFormat> format) {
  auto sizes = C10_AS_INTARRAYREF_SLOW(size);
  size_t bytes = (c10::multiply_integers(sizes) + self.storage_offset()) * self.element_size();
  if (self.storage().nbytes() < bytes) resize_storage(self.storage(), bytes);
  self.unsafeGetTensorImpl()->set_sizes_contiguous(sizes);
  if (format) self.unsafeGetTensorImpl()->empty_tensor_restride(*format);
  return self;
}

Tensor view(const Tensor& t, c10::SymIntArrayRef size) {
  return at::native::view(t, C10_AS_INTARRAYREF_SLOW(size));
}

Tensor as_strided(const Tensor& t, c10::SymIntArrayRef size, c10::SymIntArrayRef stride,
                  std::optional<c10::SymInt> offset) {
  auto first = offset ? std::optional<int64_t>(offset->expect_int()) : std::nullopt;
  return at::native::as_strided_tensorimpl(t, C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride), first);
}

Tensor reshape_alias(const Tensor& t, c10::SymIntArrayRef size, c10::SymIntArrayRef stride) {
  return at::native::_reshape_alias(t, C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride));
}

Tensor& set(Tensor& t, Storage storage, c10::SymInt offset, c10::SymIntArrayRef size, c10::SymIntArrayRef stride) {
  auto* impl = t.unsafeGetTensorImpl();
  impl->set_storage_keep_dtype(storage);
  impl->set_storage_offset(offset.expect_int());
  impl->set_sizes_and_strides(C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride));
  return t;
}

Tensor& set_storage(Tensor& t, Storage storage) {
  int64_t elements = storage.nbytes() / t.element_size();
  return set(t, storage, 0, c10::SymIntArrayRef{c10::SymInt(elements)}, c10::SymIntArrayRef{c10::SymInt(1)});
}

// --- everything else: checked and counted, then computed by the CPU ---------------------------------

void check(const std::string& name, const Tensor& t, bool is_index = false) {
  if (!t.defined() || on_device(t) || is_index) return;
  if (t.dim() == 0 && t.device().is_cpu()) return;  // a number, as GPUs take it
  TORCH_CHECK(false, "Expected all tensors to be on the same device, but found at least two devices, ", DEVICE,
              " and ", t.device(), " (in ", name, ", shape ", t.sizes(), ")");
}

void compute(const c10::OperatorHandle& operation, DispatchKeySet, torch::jit::Stack* stack) {
  const auto& schema = operation.schema();
  std::string name = schema.name();
  if (schema.overload_name().size()) name += "." + schema.overload_name();
  kernels[name]++;
  waits += WAITING.count(name);  // a mask as an index calls nonzero itself
  bool indexes = name.find("index") != std::string::npos;
  auto first = stack->size() - schema.arguments().size();
  for (size_t i = 0; i < schema.arguments().size(); i++) {
    auto& value = (*stack)[first + i];
    bool is_index = indexes && schema.arguments()[i].name() == "indices";
    auto see = [&](const IValue& part) {
      if (part.isTensor()) check(name, part.toTensor(), is_index);
    };
    if (value.isList()) for (const IValue& part : value.toListRef()) see(part);
    else see(value);
    if (value.isGenerator()) {
      auto device = value.toGenerator().device();
      TORCH_CHECK(device.type() == PRETEND, "Expected a generator on ", DEVICE, ", not on ", device, " in ", name);
      value = cpu_generator(value.toGenerator());
    } else if (value.isNone() && schema.arguments()[i].name() == "generator") {
      value = cpu_generator(default_generator());
    }
  }
  Pretence here;
  at::native::cpu_fallback(operation, stack);
}

Tensor to_device(const Tensor& t) { return t.defined() ? t.to(DEVICE) : t; }

Tensor convolution(const Tensor& x, const Tensor& w, const std::optional<Tensor>& b, c10::SymIntArrayRef stride,
                   c10::SymIntArrayRef padding, c10::SymIntArrayRef dilation, bool transposed,
                   c10::SymIntArrayRef output_padding, c10::SymInt groups) {
  kernels["convolution"]++;
  for (const Tensor& t : {x, w, b.value_or(Tensor())}) check("convolution", t);
  Pretence here;
  auto bias = b && b->defined() ? std::optional<Tensor>(on_cpu(*b)) : std::nullopt;
  return to_device(at::convolution(
      on_cpu(x), on_cpu(w), bias, C10_AS_INTARRAYREF_SLOW(stride), C10_AS_INTARRAYREF_SLOW(padding),
      C10_AS_INTARRAYREF_SLOW(dilation), transposed, C10_AS_INTARRAYREF_SLOW(output_padding), groups.expect_int()));
}

std::tuple<Tensor, Tensor, Tensor> convolution_backward(
    const Tensor& gradient, const Tensor& x, const Tensor& w, c10::SymIntArrayRef stride, c10::SymIntArrayRef padding,
    c10::SymIntArrayRef dilation, bool transposed, c10::SymIntArrayRef output_padding, c10::SymInt groups,
    std::array<bool, 3> wanted) {
  kernels["convolution_backward"] += wanted[0] + wanted[1] + wanted[2];
  for (const Tensor& t : {gradient, x, w}) check("convolution_backward", t);
  Pretence here;
  auto [of_x, of_w, of_b] = at::convolution_backward(
      on_cpu(gradient), on_cpu(x), on_cpu(w), c10::IntArrayRef({w.size(0)}), C10_AS_INTARRAYREF_SLOW(stride),
      C10_AS_INTARRAYREF_SLOW(padding), C10_AS_INTARRAYREF_SLOW(dilation), transposed,
      C10_AS_INTARRAYREF_SLOW(output_padding), groups.expect_int(), wanted);
  return {to_device(of_x), to_device(of_w), to_device(of_b)};
}

}  // namespace pretend

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&pretend::compute>()); }

// Autocast runs, and leaves everything in float32.
TORCH_LIBRARY_IMPL(_, AutocastPrivateUse1, m) { m.fallback(torch::CppFunction::makeFallthrough()); }

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", &pretend::empty);
  m.impl("empty_strided", &pretend::empty_strided);
  m.impl("_copy_from", &pretend::copy_from);
  m.impl("_copy_from_and_resize", &pretend::copy_from_and_resize);
  m.impl("resize_", &pretend::resize);
  m.impl("view", &pretend::view);
  m.impl("as_strided", &pretend::as_strided);
  m.impl("_reshape_alias", &pretend::reshape_alias);
  m.impl("set_.source_Storage_storage_offset", &pretend::set);
  m.impl("set_.source_Storage", &pretend::set_storage);
  m.impl("unfold", &at::native::unfold);
  m.impl("convolution_overrideable", &pretend::convolution);
  m.impl("convolution_backward_overrideable", &pretend::convolution_backward);
}

TORCH_LIBRARY(pretend_gpu, m) {
  using namespace pretend;
  m.def("reset() -> ()", [] {
    kernels.clear();
    waits = uploads = downloads = 0;
  });
  m.def("kernels() -> Dict(str, int)", [] {
    c10::Dict<std::string, int64_t> found;
    for (const auto& [name, count] : kernels) found.insert(name, count);
    return found;
  });
  m.def("counts() -> int[]", [] { return std::vector<int64_t>{waits, uploads, downloads}; });
  m.def("seed(int seed) -> ()", [](int64_t seed) { default_generator().set_current_seed(seed); });
  m.def("get_state() -> Tensor", [] { return cpu_generator(default_generator()).get_state(); });
  m.def("set_state(Tensor state) -> ()", [](const Tensor& state) { cpu_generator(default_generator()).set_state(state); });
}
