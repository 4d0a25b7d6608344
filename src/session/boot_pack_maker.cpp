#include "session/boot_pack_maker.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <set>

#include "base/log.h"
#include "base/thread_pool.h"
#include "image/hot_pages.h"
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

/// Pages of the version, in the order in which they are wanted. Those that are not on this host are left out.
struct BootPackMaker::Pages {
  std::vector<BootPlace> places;
  std::vector<Bytes> contents;  ///< as places; empty once a shared chunk has the page
};

/// Chunks of a published pack, and the places of their pages.
struct BootPackMaker::Shared {
  std::vector<ChunkRef> chunks;
  std::vector<BootPlace> places;  ///< kBootPagesInChunk for each chunk
};

std::optional<SealedBootPack> BootPackMaker::make(BootOrder order, const BootOrder& own, std::size_t most,
                                                  const ParcelVersion& version, const TreeRoot* published) {
  if (order.pages.empty()) order.pages = own.pages;
  append_new(order.chunks, own.chunks, kMaxBootChunks);
  if (order.pages.empty()) return std::nullopt;
  if (order.pages.size() > kMaxBootPages) order.pages.resize(kMaxBootPages);
  const std::vector<std::string> names = packed_image_names(version);
  check_places(order.pages, names);
  check_places(order.chunks, names);
  BootHead head;
  std::vector<std::unique_ptr<Image>> images;
  // Reads the version that is being published, not the session, because the session may change meanwhile.
  const auto reader = objects_.local_reader();
  for (const std::string& name : names) {
    const PatchedTree& content = version.find(name)->content;
    head.images.push_back({name, digest_of(content)});
    images.push_back(std::make_unique<Image>(name, content, reader, nullptr));
  }
  Pages pages = read_pages(order.pages, images);
  Shared shared;
  if (published != nullptr) shared = share(*published, names, most, pages);
  Bytes contents;
  for (std::size_t i = 0; i < pages.places.size() && head.order.pages.size() < most; ++i) {
    if (pages.contents[i].empty()) continue;
    head.order.pages.push_back(pages.places[i]);
    contents.insert(contents.end(), pages.contents[i].begin(), pages.contents[i].end());
  }
  while (!shared.chunks.empty() && head.order.pages.size() % kBootPagesInChunk != 0) {
    head.order.pages.push_back(kUnusedPlace);
    contents.resize(contents.size() + kBootPageSize);
  }
  head.order.pages.insert(head.order.pages.end(), shared.places.begin(), shared.places.end());
  head.order.chunks = std::move(order.chunks);
  Bytes bytes = encode_boot_head(head);
  bytes.insert(bytes.end(), contents.begin(), contents.end());
  SealedBootPack pack;
  pack.root = seal(bytes, shared.chunks, pack.objects);
  return pack;
}

BootPackMaker::Pages BootPackMaker::read_pages(const std::vector<BootPlace>& wanted,
                                               const std::vector<std::unique_ptr<Image>>& images) const {
  // Sort by place, so that pages of the same chunk are read one after another.
  std::vector<std::size_t> by_place(wanted.size());
  std::iota(by_place.begin(), by_place.end(), 0);
  std::sort(by_place.begin(), by_place.end(), [&](std::size_t a, std::size_t b) {
    return std::pair(wanted[a].image, wanted[a].number) < std::pair(wanted[b].image, wanted[b].number);
  });
  std::vector<Bytes> contents(wanted.size());
  for (const std::size_t i : by_place) {
    Bytes page(kBootPageSize);
    try {
      images[wanted[i].image]->read(wanted[i].number * kBootPageSize, page);
      contents[i] = std::move(page);
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::kOffline) throw;
    }
  }
  Pages pages;
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    if (contents[i].empty()) continue;
    pages.places.push_back(wanted[i]);
    pages.contents.push_back(std::move(contents[i]));
  }
  return pages;
}

/// Finds the chunks of a published pack of which enough pages are wanted and unchanged, and takes these pages from
/// `pages`. A pack that is not on this host, or damaged, shares nothing.
BootPackMaker::Shared BootPackMaker::share(const TreeRoot& published, const std::vector<std::string>& names,
                                           std::size_t most, Pages& pages) const {
  Shared shared;
  try {
    const auto reader = objects_.local_reader();
    const HotPages old(*reader, published, {});
    std::map<std::pair<std::string, std::uint64_t>, std::size_t> wanted;
    for (std::size_t i = 0; i < pages.places.size(); ++i) {
      wanted.emplace(std::pair(names[pages.places[i].image], pages.places[i].number), i);
    }
    std::size_t left = pages.places.size();  // pages that are not shared
    const std::vector<BootPlace>& places = old.head().order.pages;
    const std::size_t first = old.chunks() - chunk_count(places.size() * kBootPageSize);
    for (std::size_t chunk = first; chunk < old.chunks(); ++chunk) {
      if (old.reference(chunk).is_zero()) continue;
      const ChunkData data = reader->read_chunk(old.reference(chunk));
      std::vector<BootPlace> kept(kBootPagesInChunk, kUnusedPlace);
      std::vector<std::size_t> taken;
      for (std::size_t slot = 0; slot < kBootPagesInChunk; ++slot) {
        const std::size_t at = (chunk - first) * kBootPagesInChunk + slot;
        if (at >= places.size() || places[at] == kUnusedPlace) continue;
        const auto found = wanted.find({old.head().images[places[at].image].name, places[at].number});
        if (found == wanted.end()) continue;
        const Bytes& now = pages.contents[found->second];
        const auto before = data->begin() + static_cast<std::ptrdiff_t>(slot * kBootPageSize);
        if (now.empty() || !std::equal(now.begin(), now.end(), before)) continue;
        kept[slot] = pages.places[found->second];
        taken.push_back(found->second);
      }
      if (taken.size() < kBootPagesInChunk / 2) continue;
      const std::size_t own = chunk_count(std::min(left - taken.size(), most) * kBootPageSize);
      if ((own + shared.chunks.size() + 1) * kBootPagesInChunk > kMaxBootPages) continue;
      left -= taken.size();
      for (const std::size_t i : taken) pages.contents[i].clear();
      shared.chunks.push_back(old.reference(chunk));
      shared.places.insert(shared.places.end(), kept.begin(), kept.end());
    }
  } catch (const Error& error) {
    log::info("the boot pack shares nothing with the last one: {}", error.what());
  }
  return shared;
}

TreeRoot BootPackMaker::seal(ByteView bytes, std::span<const ChunkRef> shared, std::map<Cid, std::uint32_t>& objects) {
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
  for (const ChunkRef& ref : refs) {
    if (!ref.is_zero()) objects.emplace(ref.cid, ref.length);
  }
  std::map<std::uint64_t, ChunkRef> changes;
  for (const ChunkRef& ref : refs) changes.emplace(changes.size(), ref);
  for (const ChunkRef& ref : shared) changes.emplace(changes.size(), ref);
  const auto emit = [&](const SealedObject& page) {
    put_kept(page);
    objects.emplace(page.ref.cid, page.ref.length);
  };
  const std::uint64_t size = bytes.size() + shared.size() * kChunkSize;
  const TreeRoot root = update_tree(objects_.reader(), {size, {}}, changes, identity_.domain_secret, emit);
  objects_.settled().sync();
  return root;
}

}  // namespace isr
