/* SPDX-License-Identifier: MIT */
#include "elf_file.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

bool elf_file_map(const char *path, struct dl_phdr_info *info) {
  struct stat st;
  int fd = open(path, O_RDONLY | O_CLOEXEC);

  if (fd < 0 || fstat(fd, &st) != 0)
    return false;
  const char *file = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
  close(fd);
  if (file == MAP_FAILED)
    return false;
  const ElfW(Ehdr) *head = (const ElfW(Ehdr) *)file;
  const ElfW(Phdr) *p = (const ElfW(Phdr) *)(file + head->e_phoff);
  uintptr_t low = UINTPTR_MAX, high = 0;
  for (unsigned i = 0; i < head->e_phnum; i++)
    if (p[i].p_type == PT_LOAD) {
      low = p[i].p_vaddr < low ? p[i].p_vaddr : low;
      high = p[i].p_vaddr + p[i].p_memsz > high ? p[i].p_vaddr + p[i].p_memsz : high;
    }
  low &= ~0xffful;
  bool fixed = head->e_type == ET_EXEC; /* its addresses are absolute */
  char *at = mmap(fixed ? (void *)low : NULL, high - low, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | (fixed ? MAP_FIXED_NOREPLACE : 0), -1, 0);
  if (at == MAP_FAILED)
    return false;
  for (unsigned i = 0; i < head->e_phnum; i++)
    if (p[i].p_type == PT_LOAD)
      memcpy(at + (p[i].p_vaddr - low), file + p[i].p_offset, p[i].p_filesz);
  *info = (struct dl_phdr_info){
      .dlpi_addr = (uintptr_t)at - low, .dlpi_name = path, .dlpi_phdr = p, .dlpi_phnum = head->e_phnum};
  return true;
}
