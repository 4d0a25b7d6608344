#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <string_view>
#include <vector>

#include "base/bytes.h"

/// Secrets that live longer than one call: keys of an account, a host, a parcel or a journal, and passwords. They lie
/// in OpenSSL's secure heap, which is locked into memory (never swapped out) and left out of core dumps. Memory is
/// overwritten when it is freed. Where the lock fails (RLIMIT_MEMLOCK) or the heap is full, ordinary memory is used,
/// which can be swapped out. docs/decisions/0024 says what is not covered.
/// Threads: everything here may be used by many threads.
namespace isr {

/// False when the kernel did not lock the heap. Makes the heap on first use.
bool secrets_are_locked();

/// For LockedAllocator. Aligned as by operator new; throws std::bad_alloc. Free with the same size.
void* allocate_locked(std::size_t size);
void free_locked(void* memory, std::size_t size) noexcept;

template <class T>
struct LockedAllocator {
  using value_type = T;
  LockedAllocator() = default;
  template <class U>
  LockedAllocator(const LockedAllocator<U>&) noexcept {}  // NOLINT(google-explicit-constructor): as allocators are
  T* allocate(std::size_t count) {
    if (count > static_cast<std::size_t>(PTRDIFF_MAX) / sizeof(T)) throw std::bad_alloc();
    return static_cast<T*>(allocate_locked(count * sizeof(T)));
  }
  void deallocate(T* memory, std::size_t count) noexcept { free_locked(memory, count * sizeof(T)); }
  friend bool operator==(const LockedAllocator&, const LockedAllocator&) noexcept { return true; }
};

/// Bytes that hold secrets. When the vector grows, its old memory is overwritten.
using SecretBytes = std::vector<std::uint8_t, LockedAllocator<std::uint8_t>>;

/// A Key that lives longer than one call. It converts to const Key&. Do not use a moved-from one.
class SecretKey {
 public:
  SecretKey() : SecretKey(Key{}) {}
  SecretKey(Key&& plain);  // NOLINT(google-explicit-constructor): takes over a result; overwrites `plain`
  explicit SecretKey(const Key& plain) : key_(store(plain)) {}
  SecretKey(const SecretKey& other) : key_(store(*other.key_)) {}
  SecretKey(SecretKey&&) noexcept = default;
  SecretKey& operator=(const SecretKey& other) { return *this = SecretKey(other); }
  SecretKey& operator=(SecretKey&&) noexcept = default;
  ~SecretKey() = default;

  operator const Key&() const noexcept { return *key_; }  // NOLINT(google-explicit-constructor): it is one
  ByteView view() const noexcept { return key_->view(); }
  MutableBytes mutable_view() noexcept { return key_->mutable_view(); }
  friend bool operator==(const SecretKey& a, const SecretKey& b) { return *a.key_ == *b.key_; }
  friend bool operator==(const SecretKey& a, const Key& b) { return *a.key_ == b; }

 private:
  struct Free {
    void operator()(Key* key) const noexcept { free_locked(key, sizeof(Key)); }
  };
  using Owner = std::unique_ptr<Key, Free>;
  static Owner store(const Key& plain);

  Owner key_;
};

/// Secret text, such as a password.
class SecretText {
 public:
  SecretText() = default;
  /// Copies the text. The source keeps its own copy.
  template <std::convertible_to<std::string_view> Text>
  SecretText(const Text& text) {  // NOLINT(google-explicit-constructor): text like another
    append(text);
  }
  void append(std::string_view text) { text_.insert(text_.end(), text.begin(), text.end()); }
  void pop_back() { text_.pop_back(); }
  std::string_view view() const noexcept { return {text_.data(), text_.size()}; }
  operator std::string_view() const noexcept { return view(); }  // NOLINT(google-explicit-constructor)
  std::size_t size() const noexcept { return text_.size(); }
  bool empty() const noexcept { return text_.empty(); }

 private:
  std::vector<char, LockedAllocator<char>> text_;
};

}  // namespace isr
