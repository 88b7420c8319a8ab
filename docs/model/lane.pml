/* SPDX-License-Identifier: MIT */
/*
 * docs/model/lane.pml - one direction of a connection: the lane word, the ring with its extents, and the kernel lane.
 * See README.md for what is and is not modelled. The code is shmring/lane.c; names follow it: t_* is struct fl_tx, r_* is
 * struct fl_rx, s_* and w_* is what both sides can see.
 *
 * Every byte carries its sequence number, given at the moment when it enters a lane (the socket's own lock, or the
 * publishing CAS). Every byte that leaves a lane must be the next one: that is "not lost, duplicated or reordered" at once.
 *
 * The MUT_* macros each break one rule; scripts/model --mutations shows that the model notices.
 */

#ifndef Q1
#define Q1 2 /* bytes that sender 1 sends */
#endif
#ifndef Q2
#define Q2 1 /* bytes that sender 2 sends; 0: there is no sender 2 */
#endif
#ifndef KCAP
#define KCAP 2 /* bytes of the kernel's buffers */
#endif
#ifndef RCAP
#define RCAP 2 /* bytes of the ring */
#endif
#ifndef ECAP
#define ECAP 2 /* extents */
#endif
#ifndef PINS
#define PINS 0 /* times that the connection is forced NATIVE and let go again */
#endif

/*
 * BELLS: times that the sender may learn another bell; not defined: there are no bells. Each receiving thread sleeps with
 * a bell of its own, or with one that both share (ONE_SET: level-triggered in one epoll set).
 */
#ifdef ONE_SET
#define BELL_OF(id) 1
#else
#define BELL_OF(id) id
#endif

/* STALE_SENT: kernel_sent's load of ktx and its store are two steps (matters with two senders only). */

#define TOTAL (Q1 + Q2)
#define UNKNOWN 255

/*
 * RECALLS: one holder hands the connection over (exec, SCM_RIGHTS): the receiver asks the sender for what is unread
 * (fl_rx_recall). Then either somebody goes on who knows of no ring, or the threads do, as after an exec that failed.
 */

#define NATIVE 0
#define WATCHING 1
#define BELL 2
#define RECALL 3
#define RETURNED 4

/* ---- the kernel lane ---- */
chan kq = [KCAP] of { byte };
byte arrived; /* of them, how many the receiver's kernel has; the others are on their way */
bool fin;     /* the sending end closed in an orderly way, or died so */
bool rst;     /* the sending end is gone, and what had not arrived is gone with it */
bool rx_gone; /* the receiving end is gone: a native send fails */
byte kdeq;    /* bytes that left the kernel lane: the kernel's own counter (TCP_INFO bytes_received - SIOCINQ) */

#define KERNEL_END (fin || rst) /* poll says RDHUP */
#define KERNEL_EOF (len(kq) == 0 && (fin || rst))
#define READABLE (arrived > 0)
#define NOT_READABLE (arrived == 0 && !KERNEL_EOF)

/* ---- shared memory ---- */
byte w_head;
byte w_state = NATIVE; /* one word: every step reads and writes the two together */
byte ring[RCAP];
byte x_pos[ECAP], x_koff[ECAP];
byte s_xhead, s_xtail, s_tail;
byte s_ksent; /* kernel_sent */
#ifdef BELLS
byte s_known;  /* bell_known: the bell that the sender can ring, 0 none */
byte s_wanted; /* bell: the one that the receiver would like to sleep with */
bool rung[3];  /* the bells; edge-triggered: a ring is kept until somebody wakes by it */
byte belled[3]; /* threads that sleep with it */
#define CAN_RING (s_known != 0)
#define PUBLISHABLE (w_state == WATCHING || (w_state == BELL && CAN_RING))
#else
#define PUBLISHABLE (w_state == WATCHING)
#endif
#ifdef RECALLS
byte s_intent;        /* kernel_intent */
byte s_rfrom, s_rkoff; /* recall_from, recall_koff */
#endif

/* ---- the sending process ---- */
bit tx_lock;
byte t_head, t_tail, t_koff, t_xhead, t_xtail;
bool t_pending; /* the newest extent describes t_head, which is not published yet */
byte ktx;  /* bytes accounted for as sent on the kernel lane */
byte busy; /* threads in a native send without the lock */
byte sequence;
byte senders;
bool tx_dead;
#ifdef RECALLS
bool t_closing;
byte t_owed; /* bytes before t_head that are to be sent again over the kernel lane */
/* fl_tx_asked */
#ifdef MUT_OWED_OVERTAKEN
#define ASKED (w_state == RECALL)
#else
#define ASKED (w_state == RECALL || t_owed > 0)
#endif
#ifdef MUT_OWED_OVERTAKEN_BY_RING
#define NOTHING_OWED true
#else
#define NOTHING_OWED (t_owed == 0)
#endif
#else
#define NOTHING_OWED true
#endif

/* ---- the receiving process (or processes that share the cursors after a fork) ---- */
byte rx_lock; /* id of the owner, 0: free */
byte r_tail, r_tail_pub, r_seen, r_koff, r_ext;
byte r_next = UNKNOWN;
byte krx;      /* bytes accounted for as received from the kernel lane */
byte sleepers; /* threads in an unbounded native sleep: recv, or a wait on a set that holds the connection */
byte claim;    /* id of the thread in a bounded native recv: the ring's first chunk waits for its bytes */
bool pinned;   /* two holders, or an option that the ring cannot honour */
bool rx_dead;
bool holder_dead; /* receiver 2 is another process, and was killed */
bool broken;      /* the connection was reset */
#ifdef RECALLS
bool r_recalled;
bool stranger; /* who goes on with the connection knows of no ring; the threads are gone */
#define STRANGER stranger
#else
#define STRANGER false
#endif

byte delivered;

/* While the cursors are shared, a holder may die between the kernel's recv and its own accounting. */
#if defined(HOLDERS) && !defined(MUT_KRX_NOT_FROM_KERNEL)
#define KRX (krx + pinned * (kdeq - krx))
#else
#define KRX krx
#endif

#if defined(HOLDERS) && !defined(MUT_LOCK_NOT_ROBUST)
#define OWNER_DEAD(who) (who == 2 && holder_dead)
#else
#define OWNER_DEAD(who) false
#endif

/* ======================================================================= sender */

/*
 * Grain of atomicity. A step holds at most one access to what the other side can change at that moment; what is private,
 * or guarded by a lock that is held, is joined to its neighbour (Lipton: a lock is taken by a right mover and let go by a
 * left mover). Without that the state space is a hundred times larger and says the same.
 */
byte b, i; /* used within one atomic step only, and 0 between steps (hidden variables would confuse atomic) */

#ifdef MUT_NO_NEW_EXTENT
#define NEED_EXTENT (t_pending || t_xhead == 0)
#else
#define NEED_EXTENT (t_pending || t_xhead == 0 || ktx != t_koff)
#endif

/* fl_tx_reserve, its first part: how many bytes could be published, and is there an extent to write? */
inline reserve(want)
{
  len_ = 0;
  if
  :: PUBLISHABLE && NOTHING_OWED ->
    /* tx_free: the tail is fetched only when more is wanted than is known to be free */
    if
    :: RCAP - (t_head - t_tail) < want -> t_tail = s_tail
    :: else
    fi;
    len_ = RCAP - (t_head - t_tail);
#ifdef MUT_RING_OVERRUN
    len_ = want;
#endif
    len_ = (len_ > want -> want : len_);
    if
    :: len_ > 0 && NEED_EXTENT && !t_pending ->
      if
      :: t_xhead - t_xtail == ECAP -> t_xtail = s_xtail
      :: else
      fi;
      len_ = (t_xhead - t_xtail == ECAP -> 0 : len_) /* the table is full, and the new koff needs a slot */
    :: else
    fi
  :: else
  fi
}

#ifdef RECALLS
/* fl_tx_owed: takes the request, or refuses it. tx_lock held. */
inline take_request()
{
  if
  :: t_owed == 0 && w_state == RECALL ->
    if
    ::
#ifdef MUT_ANSWER_WHILE_BUSY
      true &&
#else
      busy == 0 &&
#endif
#ifdef MUT_ANSWER_OUT_OF_ORDER
      true
#else
      s_rkoff == ktx
#endif
      -> t_owed = t_head - s_rfrom; w_state = RETURNED
    :: else -> w_state = NATIVE
    fi
  :: else
  fi
}

/*
 * fl_send_back, by any call of the sending process, or its naps while not all is read (fl_send_unread): one byte at a
 * time, as there is room. The native send of somebody else may be under way meanwhile.
 */
proctype Answer()
{
  {
end:
    do
    :: atomic { !tx_lock && !t_closing && (w_state == RECALL || t_owed > 0) -> tx_lock = 1; take_request() };
      if
      :: atomic { t_owed > 0 && !rx_gone && len(kq) < KCAP ->
          kq!ring[(t_head - t_owed) % RCAP]; t_owed--; ktx++; s_intent = ktx; s_ksent = ktx; tx_lock = 0 }
      :: atomic { t_owed > 0 && rx_gone -> t_owed = 0; tx_lock = 0 }
      :: atomic { t_owed > 0 && len(kq) == KCAP -> tx_lock = 0 }
      :: atomic { t_owed == 0 -> tx_lock = 0 }
      fi
    od
  } unless { tx_dead }
}
#endif

proctype Sender(byte quota)
{
  byte len_; /* bytes reserved in the ring */
#ifdef BELLS
  byte due; /* the bell that has to be rung */
  byte learns = BELLS;
#endif

  {
    do
    :: atomic { quota == 0 || rx_gone -> break } /* rx_gone: a native send fails, or poll finds RDHUP or HUP */
#ifdef BELLS
    /* fl_bell_learn: takes the old one away before it looks */
    :: atomic { quota > 0 && !tx_lock && learns > 0 && s_wanted != s_known -> tx_lock = 1; learns--; due = s_known; s_known = 0 };
#ifdef MUT_LEARN_WITHOUT_LOOK
      atomic { s_known = s_wanted; due = 0; tx_lock = 0 }
#else
      atomic {
        if
        :: w_state == BELL -> s_known = due
        :: else -> s_known = s_wanted
        fi;
        due = 0; tx_lock = 0 }
#endif
#endif
    :: atomic { quota > 0 && !tx_lock ->
        tx_lock = 1;
        if
#ifdef MUT_BUSY_IGNORED
        :: true
#else
        :: busy == 0
#endif
          ->
          if
          :: reserve(1)
          :: quota > 1 -> reserve(2)
          fi
        :: true -> len_ = 0 /* policy: large writes, out-of-band data, more than one holder... */
        fi };

      if
      :: len_ > 0 ->
        /* the extent and the bytes: the receiver can see them, and must not look */
        atomic {
          if
          :: NEED_EXTENT ->
#ifdef MUT_EXTENT_HEAD_FIRST
            s_xhead = (t_pending -> t_xhead : t_xhead + 1);
          :: else
          fi
        };
        atomic {
          if
          :: NEED_EXTENT ->
#endif
#ifdef MUT_PENDING_KEPT
            if /* the extent of a failed CAS is believed still to be right */
            :: t_pending
            :: else -> x_pos[t_xhead % ECAP] = t_head; x_koff[t_xhead % ECAP] = ktx; t_xhead++
            fi;
#else
            t_xhead = (t_pending -> t_xhead : t_xhead + 1);
            x_pos[(t_xhead - 1) % ECAP] = t_head;
            x_koff[(t_xhead - 1) % ECAP] = ktx;
#endif
            t_pending = true;
            t_koff = ktx;
            s_xhead = t_xhead
          :: else
          fi;
          ring[t_head % RCAP] = sequence;
          if
          :: len_ > 1 -> ring[(t_head + 1) % RCAP] = sequence + 1
          :: else
          fi
        };
        /* fl_tx_publish */
        atomic {
#ifndef MUT_PUBLISH_WITHOUT_CAS
          if
          :: PUBLISHABLE ->
#endif
#ifdef BELLS
            due = (w_state == BELL -> s_known : 0);
#endif
            w_state = WATCHING;
            w_head = w_head + len_;
            t_head = t_head + len_;
            t_pending = false;
            sequence = sequence + len_;
            quota = quota - len_;
            len_ = 0;
#if defined(BELLS) && !defined(MUT_RING_FORGOTTEN)
            if
            :: due == 0 -> tx_lock = 0; goto next
            :: else
            fi
#else
            tx_lock = 0;
            goto next
#endif
#ifndef MUT_PUBLISH_WITHOUT_CAS
          :: else -> len_ = 0 /* nothing was published: the same bytes go over the kernel lane */
          fi
#endif
        }
#ifdef BELLS
        ;
        if
        :: atomic { due != 0 -> rung[due] = true; due = 0; tx_lock = 0 }; goto next
        :: due == 0
        fi
#endif
      :: else
      fi;

#ifdef MUT_SENT_BEFORE
      s_ksent = ktx + quota; /* what is intended: the kernel may take less */
#endif
#ifdef RECALLS
      /* send_begin: the intent, and then a look whether bytes are asked back, which come first */
#ifndef MUT_INTENT_NOT_TOLD
      s_intent = ktx + busy + 1;
#endif
      if
      :: atomic { ASKED -> s_intent = ktx + busy; tx_lock = 0; goto next }
      :: atomic { !ASKED -> skip }
      fi;
#endif
      if
      :: atomic { rx_gone -> tx_lock = 0 }
      :: atomic { !rx_gone && len(kq) < KCAP -> kq!sequence; sequence++; ktx++; quota--; tx_lock = 0 }
      :: atomic { !rx_gone && len(kq) == KCAP -> busy++; tx_lock = 0 }; /* would block: never with the lock held */
        if
        :: rx_gone -> skip
        :: atomic { !rx_gone && len(kq) < KCAP -> kq!sequence; sequence++; len_ = 1 }
        fi;
        atomic { !tx_lock -> ktx = ktx + len_; quota = quota - len_; len_ = 0; busy-- }
      fi;
#ifdef RECALLS
      if /* the last one's: exact again, if the lock can be had; too much does no harm */
      :: atomic { !tx_lock && busy == 0 -> s_intent = ktx }
      :: true
      fi;
#endif
      /* fl_send_end tells the receiver: after busy came down, without the lock, so perhaps late and after others */
#ifdef STALE_SENT
      len_ = ktx;
      atomic { s_ksent = len_; len_ = 0 };
#else
      s_ksent = ktx;
#endif
next:
      skip
    od;
    senders--
  } unless { tx_dead }
}

/*
 * Closes at once, or like a peer that first waits for an answer to all that it sent. The patient one is what finds a
 * sleeper that was forgotten: nothing else will ever wake it.
 */
proctype Closer()
{
  bool patient;

  {
    if
    :: patient = false
    :: patient = true
    fi;
    senders == 0;
    !patient || delivered == TOTAL || rx_gone || broken;
#if defined(RECALLS) && !defined(MUT_CLOSED_UNANSWERED)
    /* fl_send_back_last, under the lock; after this look nobody answers any more, and who asks finds the end */
    atomic { !tx_lock && ((w_state != RECALL && t_owed == 0) || rx_gone) -> t_closing = true };
#endif
    fin = true
  } unless { tx_dead }
}

/* ===================================================================== receiver */

#define RX_FREE (rx_lock == 0 || OWNER_DEAD(rx_lock))
#define CLAIM_FREE (claim == 0 || OWNER_DEAD(claim))

/* The byte that leaves a lane is the next of the stream. */
inline deliver()
{
  assert(b == delivered);
  b = 0;
  delivered++
}

/* A native receive takes one byte or more, at most `limit`. */
inline kernel_take(limit)
{
  kq?b; arrived--; deliver(); kdeq++; i = 1;
  if
  :: true
  :: READABLE && limit > 1 -> kq?b; arrived--; deliver(); kdeq++; i = 2
  fi
}

/* fl_rx_peek, its second part */
inline extents()
{
  if
  :: r_tail >= r_next ->
    assert(s_xhead - r_ext <= ECAP);
    r_next = UNKNOWN;
    do
    :: r_ext != s_xhead && r_next == UNKNOWN ->
      i = r_ext % ECAP;
      if
      :: x_pos[i] > r_tail || x_pos[i] >= r_seen -> r_next = x_pos[i]
      :: else ->
        assert(x_pos[i] == r_tail && x_koff[i] >= r_koff);
        r_koff = x_koff[i];
        r_ext++
      fi
    :: else -> break
    od;
    assert(r_ext != 0);
    i = 0
  :: else
  fi;
  assert(KRX <= r_koff)
}

/* fl_rx_publish */
inline publish_tail()
{
  if
  :: r_tail != r_tail_pub -> s_xtail = (r_ext -> r_ext - 1 : 0); s_tail = r_tail; r_tail_pub = r_tail
  :: else
  fi
}

#ifdef RECALLS
/* rx_recalled: somebody wants to read again. rx_lock held. */
inline recalled()
{
  if
  :: r_recalled ->
    if
#ifdef MUT_RECALL_KEPT
    :: w_state == RECALL || w_state == RETURNED -> w_state = NATIVE /* whatever the sender made of it */
#else
    :: w_state == RECALL -> w_state = NATIVE /* taken back */
    :: w_state == RETURNED -> /* rx_skip: it came, or will come, over the kernel lane */
      r_seen = w_head;
      r_tail = r_seen;
      r_next = UNKNOWN;
      do
      :: r_ext != s_xhead && x_pos[r_ext % ECAP] < r_tail -> r_koff = x_koff[r_ext % ECAP]; r_ext++
      :: else -> break
      od;
      publish_tail();
      w_state = NATIVE
#endif
    :: else
    fi;
    r_recalled = false
  :: else
  fi
}

/* Somebody else has the connection from now on: fl_hand_over. */
proctype HandOver()
{
  bool can;

  {
    /* another holder, or a pin: nothing comes into the ring any more */
    atomic { RX_FREE -> rx_lock = 3; pinned = true; recalled(); if :: w_state == WATCHING -> w_state = NATIVE :: else fi };
    /* a peer that has ended is not asked */
    if
    :: atomic { fin || rst || w_head == r_tail -> can = (w_head == r_tail) }
    :: atomic { !fin && !rst && w_head != r_tail ->
        r_seen = w_head;
#ifndef MUT_RECALL_WITHOUT_EXTENTS
        r_next = 0;
#endif
        extents();
        publish_tail();
        s_rfrom = r_tail;
        s_rkoff = r_koff };
      atomic { r_recalled = true; w_state = RECALL };
      if
      :: atomic {
#ifdef MUT_INTENT_NOT_SEEN
          true
#else
          s_intent == r_koff
#endif
          -> can = true }
      :: atomic { s_intent != r_koff ->
          if
          :: w_state == RECALL -> w_state = NATIVE; r_recalled = false; can = false
          :: else -> can = (w_state == RETURNED)
          fi }
      fi;
      if
      :: !can
      :: can -> /* waits for the answer, but not for ever; a peer that ended without one will give none */
        if
        :: atomic { w_state != RECALL -> can = (w_state == RETURNED) }
        :: atomic { w_state == RECALL && KERNEL_END -> w_state = NATIVE; r_recalled = false; can = false }
        /* a twentieth of a second is longer than between the last look of a sender that closes and its FIN */
        :: atomic { w_state == RECALL && !t_closing -> skip }
        fi
      fi
    fi;
    if
    :: atomic { can -> stranger = true; rx_lock = 0 };
      do
      :: atomic { READABLE -> kernel_take(2); i = 0 }
      :: atomic { KERNEL_EOF -> assert(rst || delivered == sequence); break }
      od
    :: atomic { rx_lock = 0 }; /* it did not come to that: exec failed */
      atomic { RX_FREE -> pinned = false }
    fi
  } unless { rx_dead }
}
#endif

#ifdef BELLS
/* Threads sleep, all of them with the same bell, and the sender can ring it. */
#define ALL_BELLED(x) (sleepers == belled[x] && belled[x] > 0 && s_known == x)
#endif

/* fl_rx_watch, by policy; and the lock is let go */
inline maybe_watch()
{
  if
#ifdef BELLS
  /* fl_epoll_watch with threads asleep: WATCHING for a moment, then BELL; bytes that came in between ring for themselves */
  :: !pinned && ALL_BELLED(BELL_OF(id)) -> w_state = WATCHING; again = 1; rx_lock = id
#endif
#ifdef MUT_WATCH_WITH_SLEEPER
  :: !pinned -> w_state = WATCHING
#else
#ifdef MUT_PIN_WITHOUT_LOCK
  :: sleepers == 0 && may_watch -> w_state = WATCHING /* looked at a moment ago */
#else
  :: sleepers == 0 && !pinned -> w_state = WATCHING
#endif
#endif
  :: true
  fi;
#ifdef BELLS
  if
  :: again == 0 -> rx_lock = 0
  :: else
  fi
#else
  rx_lock = 0
#endif
}

#ifdef BELLS
/*
 * Threads sleep with the bell, and the lane must not be left WATCHING: the second half of fl_epoll_watch (again = 1,
 * tail0 is the reader's position), and hand_over (again = 2, tail0 is a head read before; level-triggered, so bytes that
 * are not read are news).
 */
inline rest_again()
{
  if
  :: w_state == WATCHING && w_head == tail0 -> w_state = (s_known == BELL_OF(id) -> BELL : NATIVE);
    if
    :: tail0 != r_tail -> rung[BELL_OF(id)] = true
    :: else
    fi
  :: w_state == WATCHING && w_head != tail0 -> rung[BELL_OF(id)] = true
  :: w_state != WATCHING ->
    if
    :: again == 2 && w_head != r_tail -> rung[BELL_OF(id)] = true
    :: else
    fi
  fi;
  again = 0;
  tail0 = 0;
  rx_lock = 0
}
#endif

#define NEED (r_koff - (KRX))
#define AVAILABLE ((r_next < r_seen -> r_next : r_seen) - r_tail)

/* What another thread did that a bounded sleeper should look at. */
#define CHANGED (r_tail != tail0 || KRX != krx0 || broken)

proctype Receiver(byte id)
{
  byte got, tail0, krx0;
#ifdef BELLS
  byte again;
#endif
#ifdef MUT_PIN_WITHOUT_LOCK
  bool may_watch;
#endif

  {
    do
    :: id == 2 -> goto gone /* a thread that stops calling, at any moment */
    :: broken -> goto gone
#ifdef MUT_PIN_WITHOUT_LOCK
    :: atomic { !broken && RX_FREE -> rx_lock = id; may_watch = !pinned;
#else
    :: atomic { !broken && RX_FREE -> rx_lock = id;
#endif
#ifdef RECALLS
        recalled();
#endif
        if
        :: r_seen == r_tail ->
          r_seen = w_head; /* acquire: pairs with the publishing CAS */
          assert(r_seen >= r_tail && r_seen - r_tail <= RCAP);
          r_next = 0
        :: else
        fi };
      if
      :: atomic { r_seen != r_tail -> extents() };

        if
        :: atomic { KRX == r_koff -> /* RING */
            if
            :: rx_lock = 0 /* a waiter: reported ready */
            :: b = ring[r_tail % RCAP]; deliver(); r_tail++;
              if
              :: AVAILABLE > 0 -> b = ring[r_tail % RCAP]; deliver(); r_tail++
              :: true
              fi;
              if
              :: publish_tail()
              :: true /* lazily */
              fi;
              rx_lock = 0
            fi }

        :: KRX < r_koff -> /* KERNEL: bytes that were sent before the ring's first chunk come first */
          if
          /*
           * recv: at most NEED, MSG_DONTWAIT and so under the lock. NEED is worked out after the claim is seen to be
           * free: the claim of a holder that died becomes free after the kernel's count may have moved.
           */
#ifdef MUT_TWO_BOUNDED_RECVS
          :: atomic { READABLE -> kernel_take(NEED); krx = krx + i; i = 0; rx_lock = 0 }
#else
          :: atomic { READABLE && CLAIM_FREE && NEED > 0 -> kernel_take(NEED); krx = krx + i; i = 0; rx_lock = 0 }
#endif
#ifdef MUT_HOLE_IGNORED
          :: atomic { KERNEL_EOF -> krx = r_koff; kdeq = r_koff; rx_lock = 0 }
#else
          #ifdef MUT_HOLE_JUDGED_EARLY
          :: atomic { KERNEL_EOF -> assert(rst); broken = true; rx_lock = 0; goto gone }
#else
          :: atomic { KERNEL_EOF && CLAIM_FREE && NEED > 0 -> assert(rst); broken = true; rx_lock = 0; goto gone } /* ECONNRESET: bytes are lost */
#endif
#endif
          :: rx_lock = 0 /* EAGAIN; or a waiter that sees EPOLLIN of the kernel lane and reports it */

          /* a waiter with nothing to report yet */
          :: atomic { NEED > 0 && NOT_READABLE -> publish_tail(); tail0 = r_tail; krx0 = KRX; rx_lock = 0 };
#ifdef MUT_WAITER_SLEEPS_FOR_CHUNK
            atomic { (READABLE || KERNEL_EOF) -> tail0 = 0; krx0 = 0 } /* unbounded: "they were sent, they will come" */
#else
            atomic { (READABLE || KERNEL_EOF || CHANGED) -> tail0 = 0; krx0 = 0 } /* looks again every millisecond */
#endif

#ifndef MUT_TWO_BOUNDED_RECVS
          /* a blocking recv while another thread is in the one below: not asleep in the kernel lane */
          :: atomic { !CLAIM_FREE -> rx_lock = 0 };
            (CLAIM_FREE || broken)
          :: atomic { CLAIM_FREE && NEED > 0 && NOT_READABLE ->
#else
          :: atomic { NOT_READABLE ->
#endif
              /* a blocking recv of at most NEED bytes */
              claim = id; publish_tail(); krx0 = NEED; rx_lock = 0 };
            if
            :: atomic { READABLE -> kernel_take(krx0); got = i; i = 0 }
            :: KERNEL_EOF -> skip /* the next round finds out */
            fi;
            atomic { RX_FREE -> rx_lock = 0; krx = krx + got; got = 0; krx0 = 0; claim = 0 }
          fi
        fi

      /*
       * EMPTY, take_sent: the sender says that so many bytes of completed native sends come before all that it publishes
       * from now on, and there is still nothing in the ring. WATCHING, so nobody sleeps in the kernel lane without a
       * bound.
       */
      :: atomic { r_seen == r_tail && w_state == WATCHING && s_ksent > krx && CLAIM_FREE -> krx0 = s_ksent - krx };
        if
#ifdef MUT_SENT_NOT_RECHECKED
        :: true
#else
        :: w_head == r_tail
#endif
          ->
          if
          :: atomic { READABLE -> kernel_take(krx0); krx = krx + i; i = 0; krx0 = 0; rx_lock = 0 }
          :: atomic { NOT_READABLE -> krx0 = 0; rx_lock = 0 } /* goes on as if it had not looked */
          :: atomic { KERNEL_EOF -> krx0 = 0; rx_lock = 0 }
          fi
#ifndef MUT_SENT_NOT_RECHECKED
        :: atomic { w_head != r_tail -> krx0 = 0; rx_lock = 0 }
#endif
        fi

#ifdef BELLS
      /* EMPTY, a sleep with the bell: fl_bell_rest */
      :: atomic { r_seen == r_tail && (w_state == WATCHING || w_state == BELL) ->
          if
          :: s_known == BELL_OF(id) -> sleepers++; belled[BELL_OF(id)]++
          :: else -> s_wanted = BELL_OF(id); rx_lock = 0; goto next
          fi };
        atomic {
          if
          :: w_head == r_tail && (w_state == WATCHING || w_state == BELL) -> w_state = BELL
          :: else -> sleepers--; belled[BELL_OF(id)]--; rx_lock = 0; goto next
          fi };
#ifdef MUT_BELL_NOT_RECHECKED
        atomic { publish_tail(); rx_lock = 0 };
#else
        atomic {
          if
          :: s_known == BELL_OF(id) -> publish_tail(); rx_lock = 0
          :: else -> w_state = NATIVE; sleepers--; belled[BELL_OF(id)]--; rx_lock = 0; goto next
          fi };
#endif
        (READABLE || KERNEL_EOF || rung[BELL_OF(id)]);
        rung[BELL_OF(id)] = false;
        atomic { RX_FREE ->
          sleepers--; belled[BELL_OF(id)]--;
#ifndef MUT_NO_HAND_OVER
          if
          :: belled[BELL_OF(id)] > 0 -> rx_lock = id; again = 2; tail0 = w_head
          :: else
          fi
#endif
        }
#endif
      :: atomic { r_seen == r_tail -> /* EMPTY: fl_rx_native(tail) */
#ifdef MUT_UNBOUNDED_WHILE_WATCHING
          skip
#else
#ifdef MUT_SLEEP_WITHOUT_CAS
          w_state = NATIVE
#else
          if
          :: w_head == r_tail -> w_state = NATIVE
          :: else -> rx_lock = 0; goto next /* something was published meanwhile: look again */
          fi
#endif
#endif
        };
        if
          /* recv, MSG_DONTWAIT */
          :: atomic { READABLE -> kernel_take(2); krx = krx + i; i = 0; maybe_watch() }
          :: atomic { KERNEL_EOF -> rx_lock = 0; goto end }
          :: atomic { NOT_READABLE -> maybe_watch() } /* EAGAIN */
          /* recv, blocking */
          :: atomic { sleepers++; publish_tail(); rx_lock = 0 };
            if
            :: atomic { READABLE -> kernel_take(2); got = i; i = 0 }
            :: atomic { KERNEL_EOF -> sleepers--; goto end }
            fi;
            atomic { RX_FREE -> krx = krx + got; got = 0; sleepers--; maybe_watch() }
          /* epoll_wait, poll, select */
          :: atomic { sleepers++; publish_tail(); rx_lock = 0 };
            (READABLE || KERNEL_EOF);
            atomic { RX_FREE -> sleepers--; maybe_watch() }
          fi
      fi;
next:
#ifdef BELLS
      if
      :: atomic { again == 1 && tail0 == 0 -> tail0 = r_tail; rest_again() }
      :: atomic { again == 2 -> rest_again() }
      :: again == 0
      fi
#else
      skip
#endif
    od;
end:
    assert(rst || delivered == sequence); /* an orderly end comes after every byte that was sent */
gone:
    skip
  } unless {
#ifdef HOLDERS
    rx_dead || (id == 2 && holder_dead)
#else
    rx_dead || STRANGER
#endif
  }
}

/* Fork, an option that the ring cannot honour: NATIVE at any moment, whatever the ring holds; and let go later. */
proctype Pin()
{
  byte times = PINS;

  do
  :: times > 0 ->
#ifdef MUT_PIN_WITHOUT_LOCK
    pinned = true;
    w_state = NATIVE;
#else
    atomic { RX_FREE -> pinned = true; w_state = NATIVE };
#endif
#ifdef HOLDERS
    /* the other holder lets go in an orderly way, or is killed: then nobody ever lets go for it */
    if
    :: holder_dead = true; break
    :: true
    fi;
#endif
    atomic { RX_FREE -> assert(w_state == NATIVE); pinned = false };
    times--
  :: break
  od
}

proctype Death()
{
  if
#ifdef SENDER_DIES
  :: atomic { tx_dead = true; fin = true } /* nothing unread at its end: FIN, after what it had sent */
  /* something unread at its end, or linger 0: RST, and what is still on its way is lost */
  :: atomic { tx_dead = true; rst = true; i = arrived;
      do
      :: i > 0 -> kq?b; kq!b; i-- /* what arrived goes behind the rest... */
      :: else -> break
      od;
      do
      :: len(kq) > arrived -> kq?_ /* ...which is dropped */
      :: else -> break
      od;
      b = 0 }
#endif
#ifdef RECEIVER_DIES
  :: atomic { rx_dead = true; rx_gone = true }
#endif
  :: true
  fi
}

/* The way from the sender's kernel buffer to the receiver's. */
proctype Network()
{
end:
  do
  :: atomic { arrived < len(kq) -> arrived++ }
  od
}

init {
  atomic {
    senders = 1;
    run Sender(Q1);
#if Q2 > 0
    senders = 2;
    run Sender(Q2);
#endif
    run Network();
    run Closer();
    run Receiver(1);
#ifndef ONE_RECEIVER
    run Receiver(2);
#endif
#if PINS > 0
    run Pin();
#endif
#ifdef RECALLS
    run Answer();
    run HandOver();
#endif
#if defined(SENDER_DIES) || defined(RECEIVER_DIES)
    run Death();
#endif
  }
}
