package runtime

import (
	"context"
	"fmt"
	"reflect"
	"sync/atomic"
)

// Call sends msg to the service at ref and waits for its answer, which must be
// an R; ErrWrongType says that it is something else. Everything else is as in
// Ref.Call.
func Call[R any](ctx context.Context, ref Ref, msg any) (R, error) {
	var none R
	answer, err := ref.Call(ctx, msg)
	if err != nil {
		return none, err
	}
	r, ok := answer.(R)
	if !ok {
		return none, fmt.Errorf("%w: %s answered with %T, not with %v", ErrWrongType, ref, answer, reflect.TypeFor[R]())
	}
	return r, nil
}

// Call sends msg to the service at r and waits for its answer, until ctx ends.
// The error is that with which the service answered, one of Send's, or:
//
//   - ErrServiceGone (and ErrPanicked): the service ended before it answered.
//     Whether it had begun with msg is not known.
//   - ErrNoReply: the service handled msg without an answer.
//   - naming.ErrFenced: the answer came from an owner of the name who no longer
//     was one; naming.ErrLeaseLost too where it had lost its lease. The service
//     may have handled msg.
//   - ErrSelf: ctx is the Context of the service at r.
//   - the context's. The service may still handle msg; its answer goes nowhere.
func (r Ref) Call(ctx context.Context, msg any) (any, error) {
	if r.node == nil {
		return nil, errNobody
	}
	slot := r.node.slots.Get().(*replySlot)
	defer r.node.slots.Put(slot)
	session := slot.session.Load()
	if err := r.deliver(ctx, Message{Body: msg, Reply: slot, Session: session}); err != nil {
		slot.giveUp(session)
		return nil, err
	}
	answer, err := slot.wait(ctx, session)
	if err != nil {
		return nil, fmt.Errorf("call %s: %w", r, err)
	}
	if r.target != nil {
		if err := r.target.checkReply(answer.epoch); err != nil {
			return nil, err
		}
	}
	return answer.body, answer.err
}

// A replySlot is where a caller waits. Slots are used again, call after call:
// the session is the generation that is being waited for, and who moves it on,
// the first answer or the caller who gives up, has the only right to that
// generation. So late and double answers do nothing.
type replySlot struct {
	session atomic.Uint64
	answers chan answer // one place
}

type answer struct {
	epoch uint64
	body  any
	err   error
}

func newReplySlot() *replySlot { return &replySlot{answers: make(chan answer, 1)} }

// Reply implements Replier.
func (s *replySlot) Reply(session, epoch uint64, body any, err error) {
	if s.session.CompareAndSwap(session, session+1) {
		s.answers <- answer{epoch, body, err}
	}
}

// wait gives the answer to session. Afterwards the slot is free.
func (s *replySlot) wait(ctx context.Context, session uint64) (answer, error) {
	select {
	case a := <-s.answers:
		return a, nil
	case <-ctx.Done():
	}
	s.giveUp(session)
	return answer{}, ctx.Err()
}

// giveUp makes sure that no answer to session comes: the slot is free.
func (s *replySlot) giveUp(session uint64) {
	if !s.session.CompareAndSwap(session, session+1) {
		<-s.answers // the answer is on its way, or there
	}
}
