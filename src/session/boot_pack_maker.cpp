#include "session/boot_pack_maker.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <set>

#include "base/thread_pool.h"
#include "image/image.h"
#include "session/packed_images.h"

namespace isr {
namespace {

constexpr unsigned kSealThreads = 2;
// On a slow link, the upload of a pack may prolong a suspend by this much.
constexpr std::chrono::duration<double> kPackUpload{10};
constexpr std::chrono::duration<double> kNoTime{1};  // an upload that took less does not show the link's speed
constexpr std::size_t kLeastPages = 1024;

/// Appends the places of `second` that `first` does not have, until `first` has `most`.
void append_new(std::vector<BootPlace>& first, const std::vector<BootPlace>& second, std::size_t most) {
  std::set<std::pair<std::uint8_t, std::uint64_t>> seen;
  for (const BootPlace& place : first) seen.emplace(place.image, place.number);
  for (const BootPlace& place : second) {
    if (first.size() >= most) return;
    if (seen.emplace(place.image, place.number).second) first.push_back(place);
  }
}

/// Throws Error{kBug} for a place in an image that the version does not have.
void check_places(const std::vector<BootPlace>& places, const std::vector<std::string>& names) {
  for (const BootPlace& place : places) {
    if (place.image < names.size()) continue;
    throw Error(ErrorKind::kBug, fmt::format("the boot order names image number {} (from 0), but only {} images of the "
                                             "version can be in a boot pack",
                                             place.image, names.size()));
  }
}

}  // namespace

std::size_t affordable_boot_pages(std::uint64_t uploaded_bytes, std::chrono::duration<double> took) {
  if (took < kNoTime) return kMaxBootPages;
  const double bytes = static_cast<double>(uploaded_bytes) * (kPackUpload / took);
  return std::clamp<std::size_t>(2 * static_cast<std::size_t>(bytes) / kBootPageSize, kLeastPages, kMaxBootPages);
}

BootPackMaker::BootPackMaker(const Identity& identity, SessionObjects& objects)
    : identity_(identity), objects_(objects) {}

std::optional<SealedBootPack> BootPackMaker::make(BootOrder order, const BootOrder& own, std::size_t most,
                                                  const ParcelVersion& version) {
  if (order.pages.empty()) order.pages = own.pages;
  append_new(order.chunks, own.chunks, kMaxBootChunks);
  if (order.pages.empty()) return std::nullopt;
  if (order.pages.size() > most) order.pages.resize(most);
  SealedBootPack pack;
  pack.root = seal(collect(std::move(order), version), pack.objects);
  return pack;
}

/// Reads the version that is being published, not the session, because the session may change meanwhile. Leaves out
/// pages whose bytes are not on this host.
Bytes BootPackMaker::collect(BootOrder order, const ParcelVersion& version) const {
  const std::vector<std::string> names = packed_image_names(version);
  check_places(order.pages, names);
  check_places(order.chunks, names);
  BootHead head;
  std::vector<std::unique_ptr<Image>> images;
  const auto reader = objects_.local_reader();
  for (const std::string& name : names) {
    const TreeRoot& tree = version.find(name)->tree;
    head.images.push_back({name, tree.root.digest});
    images.push_back(std::make_unique<Image>(name, tree, reader, nullptr));
  }
  // Sort by place, so that pages of the same chunk are read one after another.
  std::vector<std::size_t> by_place(order.pages.size());
  std::iota(by_place.begin(), by_place.end(), 0);
  std::sort(by_place.begin(), by_place.end(), [&](std::size_t a, std::size_t b) {
    const auto key = [&](std::size_t i) { return std::pair(order.pages[i].image, order.pages[i].number); };
    return key(a) < key(b);
  });
  std::vector<Bytes> contents(order.pages.size());
  for (const std::size_t i : by_place) {
    Bytes page(kBootPageSize);
    try {
      images[order.pages[i].image]->read(order.pages[i].number * kBootPageSize, page);
      contents[i] = std::move(page);
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::kOffline) throw;
    }
  }
  for (std::size_t i = 0; i < order.pages.size(); ++i) {
    if (!contents[i].empty()) head.order.pages.push_back(order.pages[i]);
  }
  head.order.chunks = std::move(order.chunks);
  Bytes pack = encode_boot_head(head);
  for (const Bytes& page : contents) pack.insert(pack.end(), page.begin(), page.end());
  return pack;
}

TreeRoot BootPackMaker::seal(ByteView bytes, std::map<Cid, std::uint32_t>& objects) {
  const std::size_t count = chunk_count(bytes.size());
  std::vector<ChunkRef> refs(count);
  const auto put_kept = [&](const SealedObject& object) {
    objects_.sweep().keep(object.ref.cid);
    objects_.settled().put(object.ref.cid, object.bytes);
  };
  parallel_for(count, kSealThreads, [&](std::size_t i) {
    Bytes chunk = to_bytes(bytes.subspan(i * kChunkSize, std::min(kChunkSize, bytes.size() - i * kChunkSize)));
    chunk.resize(kChunkSize);
    const SealedObject sealed = seal_chunk(chunk, identity_.domain_secret);
    if (!sealed.ref.is_zero()) put_kept(sealed);
    refs[i] = sealed.ref;
  });
  std::map<std::uint64_t, ChunkRef> changes;
  for (std::size_t i = 0; i < count; ++i) {
    changes[i] = refs[i];
    if (!refs[i].is_zero()) objects.emplace(refs[i].cid, refs[i].length);
  }
  const auto emit = [&](const SealedObject& page) {
    put_kept(page);
    objects.emplace(page.ref.cid, page.ref.length);
  };
  const TreeRoot root = update_tree(objects_.reader(), {bytes.size(), {}}, changes, identity_.domain_secret, emit);
  objects_.settled().sync();
  return root;
}

}  // namespace isr
