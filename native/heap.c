/*
 * The engine's heap: what the engine allocates is small (17,000 pieces of 100 bytes) and stays, and a C library's malloc()
 * adds a header to each and rounds it up to 16 bytes more: a tenth of the daemon's memory. Here pieces of one size share
 * a page, without headers. What is larger than half a page, or finds no room, is malloc()'s.
 *
 * The sanitizers' build has only malloc(), so that they see each piece, and that of failing calls makes none here.
 */
#include "shim.h"

#include <malloc.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#if defined(SANITIZED) || defined(FAULTS)
JSRuntime *heap_runtime(void)
{
	return JS_NewRuntime();
}

void *heap_memset(void *piece, int byte, size_t size)
{
	return memset(piece, byte, size);
}
#else

#define PAGE 4096
#define PAGES 2048
#define STEP 8
/* Up to this size each multiple of STEP is a class; above it the class is how many pieces fill a page. */
#define STEPS_MAX 256
#define CLASSES (STEPS_MAX / STEP + 1 + PAGE / STEPS_MAX)
#define SMALL_MAX (PAGE / 2)
/* From this size on memory is cleared by giving its pages back. */
#define CLEAR_MIN (2 * PAGE)
/* Empty pages kept for the next class that needs one; what is more goes back to the kernel. */
#define EMPTY_MAX 16

/**
 * struct page - a page of pieces of one size
 * @next: @prev: in the list of its class's pages with room, or of empty pages; 0 ends it, as page 0 is in no list
 * @free: one more than the number of the first piece that was given back, which holds the same of the next; 0: none
 * @fresh: pieces that were never handed out are those from this one on
 * @used: pieces in use
 * @class: of its pieces
 */
struct page {
	uint16_t next, prev, free, fresh, used, class;
};

static uint8_t memory[PAGES][PAGE] __attribute__((aligned(PAGE)));
static struct page pages[PAGES];
static uint16_t roomy[CLASSES], empty, empty_count, touched = 1;

static unsigned int class_of(size_t size)
{
	size = (size + STEP - 1) & -(size_t)STEP;
	return size <= STEPS_MAX ? size / STEP : STEPS_MAX / STEP + PAGE / size;
}

static size_t class_size(unsigned int class)
{
	return class <= STEPS_MAX / STEP ? class * STEP : PAGE / (class - STEPS_MAX / STEP) & -(size_t)STEP;
}

static bool is_small(const void *piece)
{
	return (uintptr_t)piece - (uintptr_t)memory < sizeof memory;
}

static struct page *page_of(const void *piece)
{
	return &pages[((uintptr_t)piece - (uintptr_t)memory) / PAGE];
}

static void link_page(uint16_t *list, uint16_t n)
{
	pages[n].prev = 0;
	pages[n].next = *list;
	pages[*list].prev = n;
	*list = n;
}

static void unlink_page(uint16_t *list, uint16_t n)
{
	struct page *page = &pages[n];

	if (page->prev)
		pages[page->prev].next = page->next;
	else
		*list = page->next;
	pages[page->next].prev = page->prev;
}

/**
 * new_page() - a page for pieces of a class, in the list of those with room
 *
 * Return: its number, 0 if there is none left.
 */
static uint16_t new_page(unsigned int class)
{
	uint16_t n = empty;

	if (n) {
		unlink_page(&empty, n);
		if (empty_count)
			empty_count--;
	} else if (touched < PAGES) {
		n = touched++;
	} else {
		return 0;
	}
	pages[n] = (struct page){ .class = class };
	link_page(&roomy[class], n);
	return n;
}

static void *take(size_t size)
{
	unsigned int class = class_of(size);
	uint16_t n = roomy[class] ? roomy[class] : new_page(class), piece;
	struct page *page = &pages[n];
	uint8_t *result;

	if (!n)
		return malloc(size);
	size = class_size(class);
	piece = page->free ? page->free - 1 : page->fresh++;
	result = memory[n] + piece * size;
	if (page->free)
		memcpy(&page->free, result, sizeof page->free);
	page->used++;
	if (!page->free && (page->fresh + 1) * size > PAGE)
		unlink_page(&roomy[class], n);
	return result;
}

static void give_back(void *piece)
{
	struct page *page = page_of(piece);
	uint16_t n = page - pages;
	size_t size = class_size(page->class);

	if (!page->free && (page->fresh + 1) * size > PAGE)
		link_page(&roomy[page->class], n);
	memcpy(piece, &page->free, sizeof page->free);
	page->free = ((uint8_t *)piece - memory[n]) / size + 1;
	if (--page->used)
		return;
	unlink_page(&roomy[page->class], n);
	link_page(&empty, n);
	if (empty_count < EMPTY_MAX)
		empty_count++;
	else
		madvise(memory[n], PAGE, MADV_DONTNEED);
}

static size_t heap_size(const void *piece)
{
	return is_small(piece) ? class_size(page_of(piece)->class) : malloc_usable_size((void *)piece);
}

static void *heap_malloc(JSMallocState *state, size_t size)
{
	void *piece;

	if (state->malloc_size + size > state->malloc_limit)
		return NULL;
	piece = size <= SMALL_MAX ? take(size) : malloc(size);
	if (piece) {
		state->malloc_count++;
		state->malloc_size += heap_size(piece);
	}
	return piece;
}

static void heap_free(JSMallocState *state, void *piece)
{
	if (!piece)
		return;
	state->malloc_count--;
	state->malloc_size -= heap_size(piece);
	if (is_small(piece))
		give_back(piece);
	else
		free(piece);
}

static void *heap_realloc(JSMallocState *state, void *piece, size_t size)
{
	size_t before;
	void *result;

	if (!piece)
		return size ? heap_malloc(state, size) : NULL;
	if (!size) {
		heap_free(state, piece);
		return NULL;
	}
	before = heap_size(piece);
	if (is_small(piece) || size <= SMALL_MAX) {
		if (is_small(piece) && size <= SMALL_MAX && class_of(size) == page_of(piece)->class)
			return piece;
		result = heap_malloc(state, size);
		if (result) {
			memcpy(result, piece, before < size ? before : size);
			heap_free(state, piece);
		}
		return result;
	}
	if (state->malloc_size + size - before > state->malloc_limit)
		return NULL;
	result = realloc(piece, size);
	if (result)
		state->malloc_size += heap_size(result) - before;
	return result;
}

/**
 * heap_memset() - the engine's memset(): a buffer that begins as zeros, as those for what rarely comes, takes no memory
 * before it is used
 */
void *heap_memset(void *piece, int byte, size_t size)
{
	uintptr_t mask = (uintptr_t)sysconf(_SC_PAGESIZE) - 1;
	uint8_t *from = (uint8_t *)(((uintptr_t)piece + mask) & ~mask), *end = (uint8_t *)piece + size;
	uint8_t *to = (uint8_t *)((uintptr_t)end & ~mask);

	if (byte != 0 || size < CLEAR_MIN || from >= to || madvise(from, to - from, MADV_DONTNEED) < 0)
		return memset(piece, byte, size);
	memset(piece, 0, from - (uint8_t *)piece);
	memset(to, 0, end - to);
	return piece;
}

/**
 * heap_runtime() - an engine with this heap
 *
 * Return: NULL without memory.
 */
JSRuntime *heap_runtime(void)
{
	static const JSMallocFunctions functions = { heap_malloc, heap_free, heap_realloc, heap_size };

	return JS_NewRuntime2(&functions, NULL);
}
#endif
