// OpenSSL keeps its own private keys and the state of its random generators (512 bytes a thread) in the same heap, and
// fails when the heap is full. So isr uses at most half of it.
#include "base/secret.h"

#include <openssl/crypto.h>

namespace isr {
namespace {

// Less than a user may lock (RLIMIT_MEMLOCK: 8 MiB on Debian 12). A page takes memory only once it is used.
constexpr std::size_t kHeapSize = std::size_t{2} << 20U;
constexpr std::size_t kOurShare = kHeapSize / 2;
constexpr std::size_t kLeastBlock = sizeof(Key);

enum class Heap { kAbsent, kUnlocked, kLocked };

Heap make_heap() {
  switch (CRYPTO_secure_malloc_init(kHeapSize, kLeastBlock)) {
    case 1:
      return Heap::kLocked;
    case 2:
      return Heap::kUnlocked;  // the heap works, but its memory can be swapped out
    default:
      return Heap::kAbsent;
  }
}

Heap heap() {
  static const Heap made = make_heap();
  return made;
}

}  // namespace

bool secrets_are_locked() { return heap() == Heap::kLocked; }

void* allocate_locked(std::size_t size) {
  if (heap() != Heap::kAbsent && size <= kOurShare && CRYPTO_secure_used() <= kOurShare - size) {
    if (void* const memory = OPENSSL_secure_malloc(size); memory != nullptr) return memory;
  }
  return ::operator new(size);
}

void free_locked(void* memory, std::size_t size) noexcept {
  if (CRYPTO_secure_allocated(memory) == 1) {
    OPENSSL_secure_clear_free(memory, size);
    return;
  }
  OPENSSL_cleanse(memory, size);
  ::operator delete(memory);
}

SecretKey::SecretKey(Key&& plain) : key_(store(plain)) { OPENSSL_cleanse(plain.value.data(), Key::kSize); }

SecretKey::Owner SecretKey::store(const Key& plain) { return Owner(new (allocate_locked(sizeof(Key))) Key(plain)); }

}  // namespace isr
