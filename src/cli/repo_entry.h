#pragma once

#include <string>

#include "cli/context.h"
#include "repository/store_scheme.h"

/// Functions that the commands of `isr repo` share.
namespace isr {

/// `given`, else this user's login name. Error{kUsage} when a repository does not allow that name.
std::string default_user(const std::string& given);
/// Error{kUsage} when the configuration has a repository of that name, or the name is not valid.
void refuse_taken_repository_name(CommandContext& context, const std::string& name);
/// Opens the store at the entry's address. If this host has used the address before, the repository known there counts
/// as known (StoreOptions::is_known).
BlobStorePtr open_configured(CommandContext& context, const RepositoryEntry& entry);

}  // namespace isr
