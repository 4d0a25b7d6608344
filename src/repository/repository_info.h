#pragma once

#include "repository/blob_store.h"

namespace isr {

/// The blob "isr-repository", which marks a store as a repository of isr.
struct RepositoryInfo {
  std::string id;  ///< 32 hex digits, random
  std::uint32_t chunk_size = 131072;
};

Bytes encode_repository_info(const RepositoryInfo& info);
/// Error{kUnsupported} for another format or chunk size, {kCorrupt} for junk.
RepositoryInfo parse_repository_info(ByteView bytes);

/// Reads it; Error{kNotFound} when the store is not a repository.
RepositoryInfo read_repository_info(BlobStore& store);
/// Makes a new repository. It first tests the store with a race: 8 writers put 20 fresh names below probe/, and exactly
/// one must win each. Error{kUnsupported} names the failing probe. Error{kUsage} "exists" when it is a repository
/// already, {kUnsupported} when it is neither empty nor a repository of isr.
RepositoryInfo init_repository(BlobStore& store);
/// Runs only that race.
void race_store(BlobStore& store);
/// Makes the directory of a directory URL; does nothing for other stores. Error{kUnsupported} when the path is a file
/// or a non-empty directory that is not a repository.
void prepare_store_location(const std::string& url);

}  // namespace isr
